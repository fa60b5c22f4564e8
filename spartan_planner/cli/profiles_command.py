"""``profiles``: list, show and validate device profiles; needs no torch."""

from typing import Annotated

import typer

from cost_models.documents import to_plain
from spartan_planner.bundled_profiles import bundled_profile_names, load_profile
from spartan_planner.cli.options import AsJson, print_json
from spartan_planner.console import show


def profiles_command(
    profile: Annotated[
        str | None,
        typer.Argument(metavar="PROFILE", help="A bundled profile's name or a file to show."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled device profiles, or validate and show one."""
    if profile is None:
        names = bundled_profile_names()
        if as_json:
            print_json(list(names))
        else:
            show("\n".join(names) or "no profile is bundled yet; make one with 'profile'")
        return
    from spartan_planner.report import profile_table

    loaded = load_profile(profile)
    if as_json:
        print_json(to_plain(loaded))
    else:
        show(profile_table(loaded))
