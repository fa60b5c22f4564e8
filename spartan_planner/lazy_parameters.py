"""Parameters whose shape is not known before the model's first run."""

from torch import nn
from torch.nn.parameter import is_lazy

from spartan_planner.errors import ModelError


def with_known_shapes(model: nn.Module, model_name: str) -> nn.Module:
    """Return the model.

    Args:
        model: any module.
        model_name: what the user calls it.

    Raises:
        ModelError: a parameter has no shape yet, as in ``nn.LazyLinear``.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(
                f"parameter {name} of {model_name} has no shape before the model's first run; run "
                "the model once where it is built, or give its lazy modules their sizes"
            )
    return model
