"""Where results are printed: standard output.  Progress and errors go to standard error."""

import sys

from rich.console import Console

_WIDTH_OF_FILES = 120
"""Columns where output is not a terminal, which would else be taken for 80 wide."""


def result_console(quiet: bool = False) -> Console:
    """Return a console on standard output, wide enough for tables in a file."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    # Names in documents are text: "[/x]" is no style to close, ":cat:" no picture.
    return Console(quiet=quiet, width=width, markup=False, emoji=False)


def show(*results: object) -> None:
    """Print tables and text on standard output."""
    result_console().print(*results)
