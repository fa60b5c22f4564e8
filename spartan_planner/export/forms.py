"""How zero blocks appear in an exported file."""

from enum import Enum

from cost_models import Layout, LayoutKind
from spartan_planner.errors import ExportError
from spartan_planner.export_metadata import LOWERED
from spartan_planner.planning import Plan


class Form(Enum):
    """How zero blocks appear in the file."""

    MASKED = "masked"
    SPARSE = "sparse"
    LOWERED = LOWERED


def best_form(plan: Plan | None) -> Form:
    """Return the lowered form where every layout of the plan has one, else the masked form."""
    if plan is None or any(_why_not_lowered(item.layout) for item in plan.sparse_layers):
        return Form.MASKED
    return Form.LOWERED


def why_masked(plan: Plan | None) -> str:
    """Return why :func:`best_form` is the masked form for a plan; empty where it is not."""
    for layer in plan.sparse_layers if plan else ():
        if _why_not_lowered(layer.layout):
            return (
                f"the file is masked and no faster than dense: layer {layer.name} has layout "
                f"{layer.layout}, which has no lowered form without padding"
            )
    return ""


def require_lowerable(plan: Plan | None) -> None:
    """Refuse plans that cannot be written in the lowered form.

    Raises:
        ExportError: there is no plan, or a layout that has no lowered form.
    """
    if plan is None:
        raise ExportError(
            "the form lowered needs the plan that says which blocks were pruned; give the plan, "
            "or use the form masked"
        )
    for layer in plan.sparse_layers:
        reason = _why_not_lowered(layer.layout)
        if reason:
            raise ExportError(f"layer {layer.name} is pruned in {reason}")


def _why_not_lowered(text: str) -> str:
    """The reason why a layout has no lowered form; empty where it has one."""
    layout = Layout.parse(text)
    if layout.kind is LayoutKind.N_M:
        return (
            f"the pattern {text}, for which ONNX has no form; use the form masked, and let the "
            "device's own compiler find the pattern"
        )
    if not layout.balanced_step:
        return (
            f"layout {text}, which would have to be padded to be lowered and then cost more than "
            "planned; use the form masked, or plan a balanced layout such as tile:64x1@16"
        )
    return ""
