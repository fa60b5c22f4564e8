"""The smaller torch model that channels leave, on disk."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from spartan_planner.channels.saved import save_pruned
from spartan_planner.export.forms import Form
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.export.promises import promise_of
from spartan_planner.export.smaller import smaller_model
from spartan_planner.planning import Plan


def save_smaller(model: nn.Module, plan: Plan, inputs: Sequence[Tensor], path: Path) -> None:
    """Write what is left of a model, once it is seen to keep the plan.

    ``load_pruned`` rebuilds it from a fresh model of the original class.

    Args:
        model: trained to the plan or pruned in one shot, as large as it was.
        plan: the plan, which removes channels.
        inputs: example inputs, of the shapes that the plan was made for.
        path: of the safetensors file.

    Raises:
        PlanError: the plan belongs to another model or to other shapes of inputs.
        ExportError: the weights cost more than the plan allows.
        DocumentError: the file cannot be written.
    """
    left = smaller_model(model, plan)
    promise_of(model, plan, inputs, Form.LOWERED, kept_sizes(left.model, left.plan))
    save_pruned(left.model, path)
