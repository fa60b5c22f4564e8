"""The command line: the edge at which users' names and files become objects.

Commands that run on a target device import no torch; the others import it when they are called.
"""

from spartan_planner.cli.app import main

__all__ = ["main"]
