"""Models and example inputs by name, for commands that need torch."""

from pathlib import Path

import typer
from torch import Tensor, nn

from spartan_planner.checkpoints import load_weights
from spartan_planner.model_names import (
    example_inputs,
    in_floating_type,
    inputs_suiting,
    load_model,
)


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
    # What is cheap to check comes before the model, the model before the lack of inputs.
    given = None
    if input_shape is not None or inputs is not None:
        given = example_inputs(input_shape, inputs)
    loaded = load_model(model, seed, on_meta)
    examples = given or example_inputs(None, None)
    if input_shape is not None:
        examples = inputs_suiting(loaded, examples)
    else:
        examples = _as_floating_type(loaded, examples, inputs)
    if checkpoint:
        load_weights(loaded, checkpoint)
    return loaded, examples


def _as_floating_type(
    model: nn.Module, examples: tuple[Tensor, ...], path: Path | None
) -> tuple[Tensor, ...]:
    suited = in_floating_type(model, examples)
    kinds = {
        str(new.dtype).removeprefix("torch.")
        for old, new in zip(examples, suited, strict=True)
        if old.dtype != new.dtype
    }
    if kinds:
        typer.echo(
            f"notice: the float64 arrays of {path} are used as {kinds.pop()}, as the model is",
            err=True,
        )
    return suited
