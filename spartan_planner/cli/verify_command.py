"""``verify``: measure an exported file against its promise; needs no torch."""

from pathlib import Path
from typing import Annotated

import typer

from spartan_planner.cli.options import EXIT_MISSED, AsJson, print_json, require_profile_of
from spartan_planner.console import show
from spartan_planner.progress import progress_bar


def verify_command(
    sparse: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The exported file.")],
    dense: Annotated[
        Path | None, typer.Option("--dense", help="The dense file to compare with.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan that the file must belong to.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Interleaved rounds.")] = 100,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads; the profile's by default.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Share by which asked may be exceeded.")
    ] = 0.10,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="The profile that the plan must have been made with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time an exported file on this device; exit code 1 when its promise is missed."""
    from spartan_planner.planning import read_plan
    from spartan_planner.report import verification_table
    from spartan_planner.verification import VerifySettings, verify

    settings = VerifySettings(rounds, threads, tolerance)
    made = read_plan(plan) if plan else None
    require_profile_of(made, profile)
    with progress_bar("verifying", rounds) as advance:
        result = verify(sparse, made, dense=dense, settings=settings, advance=advance)
    if as_json:
        print_json(result.to_json())
    else:
        show(verification_table(result))
    if result.ok is False:
        raise typer.Exit(EXIT_MISSED)
