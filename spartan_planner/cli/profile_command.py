"""``profile``: measure this device; needs no torch."""

from pathlib import Path
from typing import Annotated

import typer

from cost_models import Workload, read_document, write_document
from cost_models.documents import to_plain
from spartan_planner.cli.options import AsJson, print_json, require_output_folder
from spartan_planner.console import show
from spartan_planner.progress import progress_bar


def profile_command(
    workload: Annotated[
        Path, typer.Argument(metavar="WORKLOAD", help="A workload made by 'inspect -o'.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the profile (YAML) here.")],
    name: Annotated[str, typer.Option("--name", help="What to call the device.")] = "this-device",
    threads: Annotated[int, typer.Option("--threads", help="Threads of the runtime.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", help="Interleaved rounds at most.")] = 60,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="Begin no further round after this time.")
    ] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Measure this device for the layer shapes of WORKLOAD, dense and lowered."""
    from spartan_planner.profiling import ProfileSettings, make_profile
    from spartan_planner.report import profile_table

    require_output_folder(out)
    settings = ProfileSettings(name, threads, rounds, max_seconds, min(10, rounds))
    document = read_document(workload, Workload, "workload")
    with progress_bar("profiling", rounds) as advance:
        profile = make_profile(document, settings, advance)
    write_document(out, profile)
    if as_json:
        print_json(to_plain(profile))
        return
    show(profile_table(profile))
    show(f"written to {out}")
