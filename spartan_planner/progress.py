"""Progress bars for long work, shown only where a person watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

Advance = Callable[[str], None]
"""Says that one unit of work is done; the text, when not empty, describes the state."""


def no_progress(status: str) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(description: str, total: int | None, is_shown: bool = True) -> Iterator[Advance]:
    """Yield a function to call once per unit; draws on standard error when it is a terminal.

    Without a total the bar shows that work goes on.
    """
    if not is_shown or not sys.stderr.isatty():
        yield no_progress
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, status="")

        def advance(status: str) -> None:
            progress.update(task, advance=1, status=status)

        yield advance
