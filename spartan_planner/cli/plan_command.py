"""``plan``: a cost-weighted allocation for budgets, over a range of them, or on several devices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cost_models import DeviceProfile, Layout, write_document
from cost_models.documents import to_plain, write_atomically
from spartan_planner.cli.options import (
    AsJson,
    Inputs,
    InputShape,
    Seed,
    print_json,
    require_output,
)
from spartan_planner.cli.plan_sources import Source, read_source
from spartan_planner.cli.trial_options import (
    TrialWish,
    Try,
    TryProfile,
    TryTolerance,
    exit_by,
    show_trial,
    trial_json,
    trial_wish,
    try_out,
)
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.planning import Bound, Budget, Plan, Policy, Schedule
from spartan_planner.planning.bounds import parse_bounds
from spartan_planner.planning.budget import parse_budgets
from spartan_planner.planning.policies import parse_policy

if TYPE_CHECKING:
    from spartan_planner.planning.compare import DevicePlan
    from spartan_planner.planning.sweep import Curve

_CURVE_SUFFIXES = (".csv", ".json", ".yaml")


def plan_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="torchvision:NAME, timm:NAME, transformers:TYPE, package.module:factory, an .onnx "
            "file, or a workload (.yaml) with --checkpoint.",
        ),
    ],
    budget: Annotated[
        list[str],
        typer.Option(
            "--budget", "-b", help="What the whole model may cost: latency=50%. Several at once."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the plan (YAML), or the curve (.csv, .json, .yaml), here."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="A profile made by 'profile', or a bundled one's name."),
    ] = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="Weights: .safetensors or a torch file of tensors. For a workload or with --meta "
            "a .safetensors file or the folder of a checkpoint, read as a stream.",
        ),
    ] = None,
    on_meta: Annotated[
        bool,
        typer.Option("--meta", help="Build the model without values, for --checkpoint to stream."),
    ] = False,
    layout: Annotated[
        list[str] | None,
        typer.Option(
            "--layout",
            help="Layouts to choose from, such as tile:64x1@16, tile:64x1, element or 2:4. By "
            "default those that the profile measured or that can be lowered, and n:m where the "
            "device has it; without a profile, tile:64x1 for linear layers.",
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", help="cost (the default), uniform, erk or magnitude.")
    ] = "cost",
    keep_dense: Annotated[
        list[str] | None,
        typer.Option("--keep-dense", help="Pattern of layers to leave dense: 'head*'."),
    ] = None,
    min_density: Annotated[
        list[str] | None,
        typer.Option("--min-density", help="Least density of layers: 'features.0*=50%'."),
    ] = None,
    layer_layout: Annotated[
        list[str] | None,
        typer.Option("--layer-layout", help="Layouts of layers: 'blocks.*=tile:64x1@16'."),
    ] = None,
    with_sweep: Annotated[
        bool, typer.Option("--sweep", help="The whole curve from the budgets up to dense.")
    ] = False,
    points: Annotated[
        int, typer.Option("--points", min=2, max=100_000, help="Points of the curve.")
    ] = 100,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="Plan for these profiles side by side; repeat it."),
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", help="Target sharpness of the soft mask.")
    ] = None,
    seed: Seed = 0,
    is_tried: Try = False,
    try_tolerance: TryTolerance = None,
    try_profile: TryProfile = None,
    as_json: AsJson = False,
) -> None:
    """Plan which blocks of MODEL to keep, and predict the cost, before any training."""
    if out:
        require_output(out, Path(profile) if profile else None, inputs, checkpoint, Path(model))
    _refuse_contradictions(out, profile, with_sweep, compare)
    if beta is not None and not 0 < beta < math.inf:
        raise UsageError(f"beta {beta} must be positive and finite")
    wish = _Wish(
        parse_budgets(budget),
        [Layout.parse(text) for text in layout or ()],
        parse_bounds(keep_dense or (), min_density or (), layer_layout or ()),
        parse_policy(policy),
        Schedule() if beta is None else Schedule(beta=beta),
    )
    trial = trial_wish(is_tried, try_tolerance, try_profile, profile)
    if trial and (with_sweep or on_meta or Path(model).suffix in (".onnx", ".yaml", ".yml")):
        raise UsageError(
            "--try exports the model with its weights: it needs a torch model in memory, and "
            "neither --sweep nor --meta"
        )
    from spartan_planner.bundled_profiles import load_profile

    devices = [load_profile(name) for name in compare or ()]
    device = load_profile(profile) if profile else None
    source = read_source(model, input_shape, inputs, checkpoint, on_meta, seed)
    if devices:
        _compare(source, wish, devices, as_json)
    elif with_sweep:
        _sweep(source, wish, device, points, out, as_json)
    else:
        _plan(source, wish, device, trial, out, as_json)


@dataclass(frozen=True)
class _Wish:
    """What is asked for, whatever the model and the device."""

    budgets: Sequence[Budget]
    layouts: Sequence[Layout]
    bounds: Sequence[Bound]
    policy: Policy
    schedule: Schedule

    def plan(self, source: Source, profile: DeviceProfile | None) -> Plan:
        from spartan_planner.planning import plan_workload

        return plan_workload(
            source.workload,
            source.weights,
            self.budgets,
            profile=profile,
            layouts=self.layouts,
            bounds=self.bounds,
            policy=self.policy,
            input_shapes=source.input_shapes,
            input_dtypes=source.input_dtypes,
            schedule=self.schedule,
        )


def _refuse_contradictions(
    out: Path | None, profile: str | None, with_sweep: bool, compare: Sequence[str] | None
) -> None:
    if compare and (profile or with_sweep or out):
        raise UsageError(
            "--compare plans for the profiles that it names and writes no file; leave out "
            "--profile, --sweep and --out"
        )
    if with_sweep and out and out.suffix not in _CURVE_SUFFIXES:
        raise UsageError(
            f"a curve cannot be written as {out.name!r}; end the name with "
            f"{', '.join(_CURVE_SUFFIXES)}"
        )


def _plan(
    source: Source,
    wish: _Wish,
    profile: DeviceProfile | None,
    trial_wished: TrialWish | None,
    out: Path | None,
    as_json: bool,
) -> None:
    trial = None
    if trial_wished is not None:
        assert source.runnable is not None
        model, examples = source.runnable
        trial = try_out(
            trial_wished, model, examples, lambda device: wish.plan(source, device), profile
        )
    made = trial.plan if trial else wish.plan(source, profile)
    if out:
        write_document(out, made)
    if as_json:
        print_json({**plan_json(made), **trial_json(trial)})
        exit_by(trial)
        return
    _show_plan(made)
    show_trial(trial)
    show(f"written to {out}" if out else "not written; give --out to keep the plan")
    exit_by(trial)


def _show_plan(made: Plan) -> None:
    from spartan_planner.report import plan_table, totals_table

    show(plan_table(made))
    show(totals_table(made.all_costs))
    if made.unpriced_operations:
        names = ", ".join(f"{op} x{count}" for op, count in made.unpriced_operations.items())
        show(f"not in any cost, since no weight of a layer is consumed: {names}")
    for warning in made.warnings:
        show(f"warning: {warning}")
    for cost, reason in made.not_priced.items():
        show(f"{cost} cannot be told: {reason}")
    show(
        f"retains {made.retained_value:.1%} of the sum of absolute weights, at most "
        f"{made.duality_gap:.2%} below the best within these budgets"
    )


def _sweep(
    source: Source,
    wish: _Wish,
    profile: DeviceProfile | None,
    num_points: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from spartan_planner.planning import prepare
    from spartan_planner.planning.plan_workload import chosen_from
    from spartan_planner.planning.sweep import sweep
    from spartan_planner.report import sweep_table

    problem = prepare(
        source.workload,
        source.weights,
        wish.budgets,
        chosen_from(profile, wish.layouts),
        profile=profile,
        bounds=wish.bounds,
    )
    curve = sweep(problem, profile, policy=wish.policy, num_points=num_points)
    if out:
        _write_curve(out, curve)
    if as_json:
        print_json(to_plain(curve))
        return
    show(sweep_table(curve))
    if out:
        show(f"all {len(curve.points)} points written to {out}")


def _write_curve(out: Path, curve: "Curve") -> None:
    import json

    from spartan_planner.planning.sweep import curve_csv

    if out.suffix == ".yaml":
        write_document(out, curve)
        return
    is_csv = out.suffix == ".csv"
    text = curve_csv(curve) if is_csv else json.dumps(to_plain(curve), indent=2) + "\n"
    write_atomically(out, lambda path: path.write_text(text, encoding="utf-8"))


def _compare(source: Source, wish: _Wish, profiles: Sequence[DeviceProfile], as_json: bool) -> None:
    from spartan_planner.planning.compare import compare
    from spartan_planner.report import comparison_table

    found = compare(source.workload, profiles, lambda profile: wish.plan(source, profile))
    if as_json:
        print_json(comparison_json(found))
    else:
        show(comparison_table(found))


def comparison_json(found: "Sequence[DevicePlan]") -> dict[str, Any]:
    """Return what ``plan --compare --json`` prints."""
    return {
        "devices": [
            {
                "profile": item.profile,
                "density": item.density,
                "elsewhere": item.elsewhere,
                **plan_json(item.plan),
            }
            for item in found
        ]
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return what ``plan --json`` prints."""
    plain = to_plain(plan)
    first = plan.budgets[0]
    for layer, item in zip(plan.layers, plain["layers"], strict=True):
        item["predicted"] = layer.predicted(first.cost)
        item["unit"] = first.unit
    return {
        "model": plan.model,
        "budgets": plain["budgets"],
        "totals": plain["totals"],
        "not_priced": plain["not_priced"],
        "unpriced_operations": plain["unpriced_operations"],
        "policy": plan.policy,
        "retained_value": plan.retained_value,
        "duality_gap": plan.duality_gap,
        "warnings": list(plan.warnings),
        "layers": plain["layers"],
    }
