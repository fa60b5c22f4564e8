"""The command line: names and files become objects here, and only here.

Commands that run on a target device import no torch; the others import it when they are called.
"""

from spartan_planner.cli.app import main

__all__ = ["main"]
