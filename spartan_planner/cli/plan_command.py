"""``plan``: a cost-weighted allocation for a budget."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from cost_models import DeviceProfile, Layout, write_document
from cost_models.documents import to_plain
from spartan_planner.cli.options import (
    AsJson,
    Checkpoint,
    Inputs,
    InputShape,
    Model,
    Seed,
    print_json,
    require_output_folder,
)
from spartan_planner.cli.trial_options import (
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
from spartan_planner.planning import Plan, Schedule, parse_budget
from spartan_planner.planning.bounds import parse_bounds
from spartan_planner.planning.policies import parse_policy


def plan_command(
    model: Model,
    budget: Annotated[
        list[str],
        typer.Option("--budget", "-b", help="What the whole model may cost: latency=50%."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the plan (YAML) here.")],
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="A profile made by 'profile', or a bundled one's name."),
    ] = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    checkpoint: Checkpoint = None,
    layout: Annotated[
        list[str] | None,
        typer.Option("--layout", help="Layouts to choose from, such as tile:64x1@16."),
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
    require_output_folder(out)
    budgets = [parse_budget(text) for text in budget]
    if beta is not None and not 0 < beta < math.inf:
        raise UsageError(f"beta {beta} must be positive and finite")
    schedule = Schedule() if beta is None else Schedule(beta=beta)
    layouts = [Layout.parse(text) for text in layout or ()]
    bounds = parse_bounds(keep_dense or (), min_density or (), layer_layout or ())
    spread = parse_policy(policy)
    wish = trial_wish(is_tried, try_tolerance, try_profile, profile)
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.cli.load import load
    from spartan_planner.plan_model import plan
    from spartan_planner.report import plan_table, totals_table

    device = load_profile(profile) if profile else None
    loaded, examples = load(model, input_shape, inputs, checkpoint, seed)

    def plan_by(profile: DeviceProfile | None) -> Plan:
        return plan(
            loaded,
            examples,
            budgets=budgets,
            profile=profile,
            layouts=layouts,
            schedule=schedule,
            bounds=bounds,
            policy=spread,
            model_name=model,
        )

    trial = try_out(wish, loaded, examples, plan_by, device)
    made = trial.plan if trial else plan_by(device)
    write_document(out, made)
    if as_json:
        print_json({**plan_json(made), **trial_json(trial)})
        exit_by(trial)
        return
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
    show_trial(trial)
    show(f"written to {out}")
    exit_by(trial)


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
