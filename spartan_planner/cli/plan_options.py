"""The options of ``plan``, and what they ask for."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spartan_planner.errors import UsageError
from spartan_planner.planning import PlanRequest, Schedule
from spartan_planner.planning.bounds import parse_bounds
from spartan_planner.planning.budget import parse_budgets
from spartan_planner.planning.policies import parse_policy
from spartan_planner.planning.request import read_layouts

CURVE_SUFFIXES = (".csv", ".json", ".yaml")
"""How a curve can be written."""

PlannedModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, transformers:TYPE, package.module:factory, an .onnx "
        "file, or a workload (.yaml) with --checkpoint.",
    ),
]
BudgetTexts = Annotated[
    list[str],
    typer.Option(
        "--budget", "-b", help="What the whole model may cost: latency=50%. Several at once."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Write the plan (YAML), or the curve (.csv, .json, .yaml), here."
    ),
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", help="A profile made by 'profile', or a bundled one's name."),
]
StreamedCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Weights: .safetensors or a torch file of tensors. For a workload or with --meta "
        "a .safetensors file or the folder of a checkpoint, read as a stream.",
    ),
]
OnMeta = Annotated[
    bool,
    typer.Option("--meta", help="Build the model without values, for --checkpoint to stream."),
]
LayoutTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--layout",
        help="Layouts to choose from: channel, head, tile:64x1@16, tile:64x1, element, 2:4; auto "
        "stands for channel, head and the default ones. By default those that the profile "
        "measured or that can be lowered, and n:m where the device has it; without a profile, "
        "tile:64x1 for linear layers.",
    ),
]
ChannelMultiple = Annotated[
    int | None,
    typer.Option(
        "--channel-multiple",
        min=1,
        max=4096,
        help="With channel or auto: keep a multiple of so many channels of every group, or all; "
        "by default 16, the vector step, or less where a group is small.",
    ),
]
PolicyName = Annotated[
    str, typer.Option("--policy", help="cost (the default), uniform, erk or magnitude.")
]
KeepDense = Annotated[
    list[str] | None,
    typer.Option("--keep-dense", help="Pattern of layers to leave dense: 'head*'."),
]
MinDensity = Annotated[
    list[str] | None,
    typer.Option("--min-density", help="Least density of layers: 'features.0*=50%'."),
]
LayerLayout = Annotated[
    list[str] | None,
    typer.Option("--layer-layout", help="Layouts of layers: 'blocks.*=tile:64x1@16'."),
]
WithSweep = Annotated[
    bool, typer.Option("--sweep", help="The whole curve from the budgets up to dense.")
]
NumPoints = Annotated[
    int, typer.Option("--points", min=2, max=100_000, help="Points of the curve.")
]
Compared = Annotated[
    list[str] | None,
    typer.Option("--compare", help="Plan for these profiles side by side; repeat it."),
]
Beta = Annotated[
    float | None,
    typer.Option(
        "--beta",
        help="How sharp the soft mask of training gets: a block one mean surplus above the price "
        "ends at sigmoid(beta); 10 by default (docs/training.md).",
    ),
]


def request_of(
    budget: Sequence[str],
    layout: Sequence[str] | None,
    bounds: tuple[Sequence[str] | None, Sequence[str] | None, Sequence[str] | None],
    policy: str,
    beta: float | None,
    channel_multiple: int | None = None,
) -> PlanRequest:
    """Read what is asked of the plan; the profile is still to be added.

    Args:
        budget: texts of ``--budget``.
        layout: texts of ``--layout``.
        bounds: texts of ``--keep-dense``, ``--min-density`` and ``--layer-layout``.
        policy: name of the policy.
        beta: sharpness, where given.
        channel_multiple: channels that a group may keep are a multiple of it.

    Raises:
        UsageError, UnknownNameError: a text that is not understood.
    """
    if beta is not None and not 0 < beta < math.inf:
        raise UsageError(f"beta {beta} must be positive and finite")
    keep_dense, min_density, layer_layout = (texts or () for texts in bounds)
    layouts, channels = read_layouts(layout or (), channel_multiple)
    return PlanRequest(
        parse_budgets(budget),
        layouts=layouts,
        bounds=parse_bounds(keep_dense, min_density, layer_layout),
        policy=parse_policy(policy),
        schedule=Schedule() if beta is None else Schedule(beta=beta),
        channels=channels,
    )


def refuse_contradictions(
    out: Path | None, profile: str | None, with_sweep: bool, compare: Sequence[str] | None
) -> None:
    """Refuse options that exclude each other.

    Raises:
        UsageError: naming them.
    """
    if compare and (profile or with_sweep or out):
        raise UsageError(
            "--compare plans for the profiles that it names and writes no file; leave out "
            "--profile, --sweep and --out"
        )
    if with_sweep and out and out.suffix not in CURVE_SUFFIXES:
        raise UsageError(
            f"a curve cannot be written as {out.name!r}; end the name with "
            f"{', '.join(CURVE_SUFFIXES)}"
        )
