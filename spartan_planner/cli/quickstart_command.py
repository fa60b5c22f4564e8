"""``quickstart``: the whole path on built-in data."""

from pathlib import Path
from typing import Annotated

import typer

from spartan_planner.cli.options import EXIT_MISSED, AsJson, print_json, require_output
from spartan_planner.errors import UsageError


def quickstart_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")] = (
        Path("quickstart")
    ),
    as_json: AsJson = False,
) -> None:
    """Profile this CPU, plan, train, export and verify a network on handwritten digits."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give a folder for the quickstart's results")
    require_output(out / "summary.json")
    from spartan_planner.quickstart import run_quickstart

    summary = run_quickstart(out, quiet=as_json)
    if as_json:
        print_json(summary.to_json())
    if not summary.ok:
        raise typer.Exit(EXIT_MISSED)
