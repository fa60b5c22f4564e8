"""``profiles``: list, show and validate device profiles; needs no torch."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cost_models import DeviceProfile
from cost_models.documents import to_plain
from spartan_planner.bundled_profiles import bundled_profile_names, load_profile
from spartan_planner.cli.groups import ListOrShow
from spartan_planner.cli.options import AsJson, print_json
from spartan_planner.cli.profile_command import read_workload
from spartan_planner.console import show

if TYPE_CHECKING:
    from spartan_planner.advice import Advice


profiles_app = typer.Typer(
    cls=ListOrShow,
    help="List the bundled device profiles, show one, or validate files.  'profiles' alone lists, "
    "'profiles PROFILE' shows.",
    short_help="List the bundled device profiles, show one, or validate files.",
    no_args_is_help=False,
)


@profiles_app.command("list", short_help="List the bundled device profiles.")
def list_command(as_json: AsJson = False) -> None:
    """List the bundled device profiles: category, peak, bandwidth, ridge point."""
    from spartan_planner.profile_report import profile_summary, profiles_table

    profiles = {name: load_profile(name) for name in bundled_profile_names()}
    if as_json:
        print_json([profile_summary(name, profile) for name, profile in profiles.items()])
    else:
        show(profiles_table(profiles))


@profiles_app.command("show", short_help="Show a profile's facts, their sources, its layers.")
def show_command(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="A bundled profile's name or a file.")
    ],
    workload: Annotated[
        Path | None,
        typer.Option(
            "--workload",
            help="Advise which layouts pay for this model: a workload file, or an ONNX file.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a profile's facts with their sources, its measurement and its layers."""
    loaded = load_profile(profile)
    advice = _advice(loaded, workload) if workload else None
    if as_json:
        plain = to_plain(loaded)
        print_json(plain | {"advice": _plain_advice(advice)} if advice else plain)
        return
    from spartan_planner.profile_report import estimates_table, facts_table, measurement_table
    from spartan_planner.report import advice_table, profile_table

    measurement = measurement_table(loaded)
    show(facts_table(loaded), estimates_table(loaded), *([measurement] if measurement else []))
    if loaded.layers:
        show(profile_table(loaded))
    if advice:
        show(*([advice_table(advice)] if advice.rows else []), "\n".join(advice.sentences()))


@profiles_app.command("validate", short_help="Validate profiles; doubtful figures are noted.")
def validate_command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Profile files, or bundled names.")
    ],
    as_json: AsJson = False,
) -> None:
    """Validate profiles: exit code 2 at the first that is none; doubtful figures are noted."""
    from cost_models.plausibility import doubtful_figures

    results = []
    for file in files:
        loaded = load_profile(file)
        notes = doubtful_figures(loaded)
        results.append({"file": file, "name": loaded.name, "ok": True, "notes": list(notes)})
        if not as_json:
            lines = [f"{file}: OK", *(f"  note: {note}" for note in notes)]
            typer.echo("\n".join(lines))
    if as_json:
        print_json(results)


def _advice(profile: DeviceProfile, workload: Path) -> "Advice":
    from spartan_planner.advice import advise

    return advise(profile, read_workload(workload))


def _plain_advice(advice: "Advice") -> dict[str, Any]:
    return asdict(advice) | {"sentences": advice.sentences()}
