"""``verify``: measure an exported file against its promise; needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spartan_planner.cli.options import (
    EXIT_MISSED,
    AsJson,
    print_json,
    require_output,
    require_profile_of,
)
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.progress import progress_bar

if TYPE_CHECKING:
    from spartan_planner.verification import Verification


def verify_command(
    sparse: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The exported file.")],
    dense: Annotated[
        Path | None,
        typer.Option(
            "--dense",
            help="The dense file to compare with; one of the same weights (--form masked) is "
            "compared by its outputs as well.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan that the file must belong to.")
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnxruntime or openvino, on the CPU.")
    ] = "onnxruntime",
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
    recalibrated: Annotated[
        Path | None,
        typer.Option(
            "--recalibrated",
            help="Write the profile here that would have predicted what was measured; needs "
            "--profile and --dense.",
        ),
    ] = None,
    all_layers: Annotated[
        bool, typer.Option("--layers", help="List every layer, not only those that missed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time an exported file on this device; exit code 1 when its promise is missed."""
    from spartan_planner.planning import read_plan
    from spartan_planner.verification import VerifySettings, verify

    settings = VerifySettings(rounds, threads, tolerance, runtime)
    _require_recalibratable(recalibrated, profile, dense, sparse, plan)
    made = read_plan(plan) if plan else None
    if made or not recalibrated:
        require_profile_of(made, profile)
    with progress_bar("verifying", rounds) as advance:
        result = verify(sparse, made, dense=dense, settings=settings, advance=advance)
    if as_json:
        print_json(result.to_json())
    else:
        _show(result, all_layers)
    if recalibrated and profile:
        _write_recalibrated(recalibrated, profile, sparse, result)
    if result.ok is False:
        raise typer.Exit(EXIT_MISSED)


def _require_recalibratable(
    out: Path | None, profile: str | None, dense: Path | None, *files: Path | None
) -> None:
    if out is None:
        return
    if profile is None or dense is None:
        raise UsageError(
            "--recalibrated corrects a profile by a dense and a sparse file; give --profile and "
            "--dense"
        )
    require_output(out, dense, *files)


def _write_recalibrated(out: Path, profile: str, sparse: Path, result: "Verification") -> None:
    from cost_models import write_document
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.export_metadata import read_metadata
    from spartan_planner.verification.recalibrating import recalibrated_profile

    better = recalibrated_profile(load_profile(profile), read_metadata(sparse), result)
    write_document(out, better)
    typer.echo(f"recalibrated profile written to {out}", err=True)


def _show(result: "Verification", all_layers: bool) -> None:
    from spartan_planner.verification_report import layers_table, verification_table

    show(verification_table(result))
    if all_layers and result.layers:
        show(layers_table(result, only_missed=False))
    elif result.ok is False and result.missed_layers:
        show(layers_table(result, only_missed=True))
