"""``train``: dense, or to a plan."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spartan_planner.cli.options import (
    AsJson,
    Checkpoint,
    Model,
    Seed,
    print_json,
    require_output,
)
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.progress import progress_bar


def train_command(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            "--data", help="digits, an .npz file (images, labels), or package.module:factory."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the weights here.")],
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan to train to; dense without one.")
    ] = None,
    checkpoint: Checkpoint = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the data.")] = 6,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples per step.")] = 64,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Peak of the one-cycle schedule.")
    ] = 0.05,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="On weights.")] = 5e-4,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adamw.")] = "sgd",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train MODEL on a data set; with --plan, to the plan's budget, by Spartan."""
    require_output(out, plan, checkpoint, Path(data))
    if out.suffix != ".safetensors":
        raise UsageError(f"weights are written as safetensors; name {out} with .safetensors")
    from spartan_planner.checkpoints import load_weights, save_weights
    from spartan_planner.model_names import load_model
    from spartan_planner.planning import read_plan
    from spartan_planner.training import TrainingSettings, load_data, num_steps, train

    settings = TrainingSettings(
        num_epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        optimizer=optimizer,
        seed=seed,
    )
    made = read_plan(plan) if plan else None
    split = load_data(data)
    loaded = load_model(model, seed)
    if checkpoint:
        load_weights(loaded, checkpoint)
    with progress_bar("training", num_steps(split, settings)) as advance:
        result = train(loaded, split, settings, made, advance)
    save_weights(loaded, out)
    if as_json:
        print_json(asdict(result))
        return
    show(f"test accuracy {result.accuracy:.2%}")
    if made:
        predicted, unit = result.stats["predicted"], result.stats["unit"]
        show(f"predicted {made.budget.cost} {predicted:.4g} {unit}")
    show(f"written to {out}")
