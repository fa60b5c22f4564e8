"""``plan``: a cost-weighted allocation for a budget."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from cost_models import Layout, write_document
from cost_models.documents import to_plain
from spartan_planner.cli.options import (
    AsJson,
    Checkpoint,
    Inputs,
    InputShape,
    Model,
    Seed,
    print_json,
    require_output,
)
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.planning import Plan, Schedule, parse_budget


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
    beta: Annotated[
        float | None, typer.Option("--beta", help="Target sharpness of the soft mask.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Plan which blocks of MODEL to keep, and predict the cost, before any training."""
    require_output(out, Path(profile) if profile else None, inputs, checkpoint)
    budgets = [parse_budget(text) for text in budget]
    if beta is not None and not 0 < beta < math.inf:
        raise UsageError(f"beta {beta} must be positive and finite")
    schedule = Schedule() if beta is None else Schedule(beta=beta)
    layouts = [Layout.parse(text) for text in layout or ()]
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.cli.load import load
    from spartan_planner.plan_model import plan
    from spartan_planner.report import plan_table, totals_table

    device = load_profile(profile) if profile else None
    loaded, examples = load(model, input_shape, inputs, checkpoint, seed)
    made = plan(
        loaded,
        examples,
        budgets=budgets,
        profile=device,
        layouts=layouts,
        schedule=schedule,
        model_name=model,
    )
    write_document(out, made)
    if as_json:
        print_json(plan_json(made))
        return
    show(plan_table(made))
    show(totals_table((*made.budgets, *made.totals)))
    if made.unpriced_operations:
        names = ", ".join(f"{op} x{count}" for op, count in made.unpriced_operations.items())
        show(f"not in any cost, since no weight of a layer is consumed: {names}")
    for warning in made.warnings:
        show(f"warning: {warning}")
    for cost, reason in made.not_priced.items():
        show(f"{cost} cannot be told: {reason}")
    show(f"retains {made.retained_value:.1%} of the sum of absolute weights")
    show(f"written to {out}")


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return what ``plan --json`` prints."""
    plain = to_plain(plan)
    cost = plan.budget.cost
    for layer, item in zip(plan.layers, plain["layers"], strict=True):
        item["predicted"] = layer.predicted(cost)
        item["unit"] = plan.budget.unit
    return {
        "model": plan.model,
        "budgets": plain["budgets"],
        "totals": plain["totals"],
        "not_priced": plain["not_priced"],
        "unpriced_operations": plain["unpriced_operations"],
        "warnings": plain["warnings"],
        "retained_value": plan.retained_value,
        "layers": plain["layers"],
    }
