"""The parameters that a plan names, in the model that it was made for."""

from torch import Tensor, nn

from spartan_planner.errors import PlanError
from spartan_planner.extraction import model_fingerprint
from spartan_planner.planning import Plan
from spartan_planner.planning.weights_fingerprint import checksum, joined, weights_fingerprint

_ROWS = 1024
"""Rows of a weight that are looked at together."""


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


def weights_match(model: nn.Module, plan: Plan) -> bool:
    """Whether the model holds the weights that the plan was made from; costs one read of them.

    Training may well begin with other weights; what a plan says of retained value holds for its
    own alone.

    Raises:
        PlanError: the plan was made for another model, or weights are on the meta device.
    """
    parameters = planned_parameters(model, plan)
    found = {layer.name: _checksum(layer.name, parameters[layer.name]) for layer in plan.layers}
    return weights_fingerprint(found) == plan.weights_fingerprint


def weights_note(model: nn.Module, plan: Plan) -> str | None:
    """Return a sentence where the model holds other weights than were planned, else ``None``.

    Raises:
        PlanError: as :func:`weights_match`.
    """
    if weights_match(model, plan):
        return None
    return (
        f"the plan for {plan.model} was made from other weights than these: budgets hold all the "
        "same, but what it says of retained value does not; plan with the same --checkpoint and "
        "--seed if that was not meant"
    )


def require_weights(model: nn.Module, plan: Plan) -> None:
    """Refuse weights that the plan was not made from, where its choice of blocks is for these.

    Raises:
        PlanError: as :func:`weights_match`, or the weights are others.
    """
    if not weights_match(model, plan):
        raise PlanError(
            f"the plan for {plan.model} was made from other weights than these, so that other "
            "blocks would be worth keeping and the value that it retains is another; give the "
            "checkpoint that was planned, or plan again with this one"
        )


def _checksum(name: str, parameter: nn.Parameter) -> int:
    weight = parameter.detach()
    if weight.is_meta:
        raise PlanError(
            f"the weights of layer {name} are on the meta device and have no values; give a "
            "checkpoint"
        )
    total = 0
    for start in range(0, len(weight), _ROWS):
        total = joined(total, _checksum_of_rows(weight[start : start + _ROWS]))
    return total


def _checksum_of_rows(rows: Tensor) -> int:
    return checksum(rows.cpu().float().numpy())
