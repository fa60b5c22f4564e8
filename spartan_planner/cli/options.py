"""Options that several commands share, and how results are printed."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from spartan_planner.errors import UsageError
from spartan_planner.planning import Plan

EXIT_MISSED = 1
"""Exit code of a command that found a promise missed."""

EXIT_INTERRUPTED = 130
"""Exit code of a command that was stopped by Ctrl-C, as shells have it."""

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, transformers:TYPE, or package.module:factory (found on "
        "PYTHONPATH and in the current folder).",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        help="Shape of the example input, such as 1,3,224,224; several split by ';'. A model that "
        "reads token ids gets ids.",
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option("--inputs", help="An .npy or .npz file of example inputs; ids as int64."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Weights to load: .safetensors or a torch file of tensors."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of random weights and of shuffling."),
]
PlanFile = Annotated[Path, typer.Option("--plan", help="The plan, made by 'plan'.")]


def print_json(value: object) -> None:
    """Print plain data as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def require_profile_of(plan: Plan | None, profile: str | None) -> None:
    """Refuse a plan that was not made with the profile that is given.

    Raises:
        UsageError: a profile without a plan.
        PlanError: the plan was made with another one.
        DocumentError: the profile cannot be read.
    """
    if profile is None:
        return
    if plan is None:
        raise UsageError("--profile says which profile the plan was made with; give --plan too")
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.planning import require_profile

    require_profile(plan, load_profile(profile))


def require_output(path: Path, *inputs: Path | None) -> None:
    """Refuse, before any work is done, a file that could not be written later, or that is read.

    Args:
        path: the file to write.
        inputs: what the command reads, where it is a file.

    Raises:
        UsageError: the folder does not exist and cannot be made, the path is a folder, or it is
            one of the inputs.
    """
    if any(item and path.exists() and item.exists() and path.samefile(item) for item in inputs):
        raise UsageError(f"{path} is read by this command; give another name to the file to write")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of the file to write")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing} is not a folder, so {path} cannot be written")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"folder {existing} cannot be written to, so {path} cannot be made")
