"""Models and example inputs by name, for commands that need torch."""

from pathlib import Path

from torch import Tensor, nn

from spartan_planner.checkpoints import load_weights
from spartan_planner.model_names import example_inputs, inputs_suiting, load_model


def load(
    model: str,
    input_shape: str | None,
    inputs: Path | None,
    checkpoint: Path | None,
    seed: int,
    on_meta: bool = False,
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the model, with weights from the checkpoint if given, and example inputs.

    Raises:
        SpartanPlannerError: one of the names stands for nothing.
    """
    examples = example_inputs(input_shape, inputs)
    loaded = load_model(model, seed, on_meta)
    if input_shape is not None:
        examples = inputs_suiting(loaded, examples)
    if checkpoint:
        load_weights(loaded, checkpoint)
    return loaded, examples
