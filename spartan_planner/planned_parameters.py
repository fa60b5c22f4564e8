"""The parameters that a plan names, in the model that it was made for."""

from torch import nn

from spartan_planner.errors import PlanError
from spartan_planner.extraction import model_fingerprint
from spartan_planner.planning import Plan


def planned_parameters(model: nn.Module, plan: Plan) -> dict[str, nn.Parameter]:
    """Return the model's parameters by name, once the plan is seen to be for this model.

    Raises:
        PlanError: the plan was made for another model.
    """
    if model_fingerprint(model) != plan.model_fingerprint:
        raise PlanError(
            f"the plan was made for {plan.model}, whose parameters have other names or shapes "
            "than this model's; make a plan for this model"
        )
    return dict(model.named_parameters())
