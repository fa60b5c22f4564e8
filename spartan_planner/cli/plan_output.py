"""What ``plan`` prints and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cost_models import write_document
from cost_models.documents import to_plain, write_atomically
from spartan_planner.console import show
from spartan_planner.planning import Plan

if TYPE_CHECKING:
    from spartan_planner.planning.compare import DevicePlan
    from spartan_planner.planning.sweep import Curve


def show_plan(made: Plan) -> None:
    """Print a plan, its totals, and what a user should know."""
    from spartan_planner.report import group_table, plan_table, totals_table

    show(plan_table(made))
    if made.groups:
        show(group_table(made))
    show(totals_table(made.all_costs))
    if made.unpriced_operations:
        names = ", ".join(f"{op} x{count}" for op, count in made.unpriced_operations.items())
        show(f"not in any cost, since no weight of a layer is consumed: {names}")
    for warning in made.warnings:
        show(f"warning: {warning}")
    for cost, reason in made.not_priced.items():
        show(f"{cost} cannot be told: {reason}")
    show(f"retains {made.retained_value:.1%} of the sum of absolute weights; {_how_good(made)}")


def _how_good(made: Plan) -> str:
    """How near a plan is to the best one, or what other plans retain where nobody can tell."""
    if made.duality_gap is not None:
        return (
            f"proven to be within {made.duality_gap:.2%} of the most that any plan within these "
            "budgets can retain"
        )
    names = {"tile": "blocks", "channel": "channels", "channel+tile": "channels and blocks"}
    found = ", ".join(f"{names[kind]} {share:.1%}" for kind, share in made.retained_by.items())
    return f"the best plans found within these budgets, by what they prune: {found}"


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return what ``plan --json`` prints."""
    plain, first, lowered = to_plain(plan), plan.budgets[0], plan.lowered_layers()
    for layer, item in zip(plan.layers, plain["layers"], strict=True):
        item["predicted"] = layer.predicted(first.cost, lowered=layer.name in lowered)
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
        "groups": plain["groups"],
        "retained_by": plain["retained_by"],
        "layers": plain["layers"],
    }


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


def write_curve(out: Path, curve: "Curve") -> None:
    """Write a curve in the format that the file's name ends with."""
    import json

    from spartan_planner.planning.sweep import curve_csv

    if out.suffix == ".yaml":
        write_document(out, curve)
        return
    is_csv = out.suffix == ".csv"
    text = curve_csv(curve) if is_csv else json.dumps(to_plain(curve), indent=2) + "\n"
    write_atomically(out, lambda path: path.write_text(text, encoding="utf-8"))
