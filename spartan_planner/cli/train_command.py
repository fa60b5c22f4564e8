"""``train``: dense, to a plan, or by a recipe."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from spartan_planner.cli import train_options as given
from spartan_planner.cli.options import AsJson, Checkpoint, Seed, print_json
from spartan_planner.cli.train_wishes import (
    Places,
    changed_recipe,
    origin_of,
    own_recipe,
    places_of,
    require_folder,
    require_named,
    teacher_of,
)
from spartan_planner.console import show
from spartan_planner.progress import progress_bar

if TYPE_CHECKING:
    from spartan_planner.training import TrainingResult


def train_command(
    context: typer.Context,
    model: given.OptionalModel = None,
    data: given.Data = None,
    out: given.Out = None,
    recipe: given.RecipeName = None,
    changes: given.Changes = None,
    plan: given.OptionalPlan = None,
    checkpoint: Checkpoint = None,
    method: given.Method = None,
    task: given.Task = "classification",
    num_epochs: given.Epochs = 6,
    batch_size: given.BatchSize = 64,
    learning_rate: given.LearningRate = 0.05,
    schedule: given.LearningRateSchedule = "one_cycle",
    warmup_fraction: given.Warmup = 0.0,
    weight_decay: given.WeightDecay = 5e-4,
    label_smoothing: given.LabelSmoothing = 0.1,
    optimizer: given.OptimizerName = "sgd",
    max_gradient_norm: given.ClipNorm = None,
    seed: Seed = 0,
    mixed_precision: given.MixedPrecision = "no",
    num_accumulation_steps: given.AccumulationSteps = 1,
    num_workers: given.Workers = 0,
    is_sharded: given.Fsdp = False,
    run_dir: given.RunDir = None,
    resume: given.Resume = False,
    checkpoint_epochs: given.CheckpointEpochs = 1,
    checkpoint_steps: given.CheckpointSteps = None,
    keep_checkpoints: given.KeepCheckpoints = 2,
    log_steps: given.LogSteps = 10,
    tracker: given.Trackers = None,
    distill: given.Distill = None,
    distill_weight: given.DistillWeight = 0.5,
    distill_temperature: given.DistillTemperature = 2.0,
    as_json: AsJson = False,
) -> None:
    """Train MODEL on --data, or by --recipe; with --plan to the plan's budget, by Spartan.

    With a recipe, MODEL and the options that are given replace what the recipe says. On several
    devices or nodes: the same command behind 'accelerate launch' or 'torchrun'.
    """
    require_named(model, data, recipe, changes)
    places = places_of(out, run_dir, recipe)
    require_folder(places.folder, resume, tracker)
    places.require(plan, checkpoint, distill, Path(data) if data else None)
    from spartan_planner.checkpoints import save_weights
    from spartan_planner.planned_parameters import weights_note
    from spartan_planner.planning import read_plan
    from spartan_planner.training import Recording, num_steps, train
    from spartan_planner.training.processes import joined_processes
    from spartan_planner.training.recipe_run import carry_out, resolve

    settings = {
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "optimizer": optimizer,
        "seed": seed,
        "schedule": schedule,
        "warmup_fraction": warmup_fraction,
        "task": task,
        "method": method,
        "num_accumulation_steps": num_accumulation_steps,
        "max_gradient_norm": max_gradient_norm,
        "mixed_precision": mixed_precision,
        "num_workers": num_workers,
        "is_sharded": is_sharded,
    }
    parts = {
        "model": model,
        "data.source": data,
        "checkpoint": str(checkpoint) if checkpoint else None,
    }
    wish = (
        changed_recipe(recipe, context, parts, settings, changes or [])
        if recipe
        else own_recipe(parts, settings)
    )
    run = resolve(wish, plan=read_plan(plan) if plan else None)
    recording = places.folder and Recording(
        folder=places.folder,
        resume=resume,
        checkpoint_epochs=checkpoint_epochs,
        checkpoint_steps=checkpoint_steps,
        num_kept_checkpoints=keep_checkpoints,
        log_steps=log_steps,
        trackers=tuple(tracker or ()),
        origin=origin_of(wish, distill),
    )
    teacher = teacher_of(wish, distill, distill_weight, distill_temperature) if distill else None
    note = weights_note(run.model, run.plan) if run.plan else None
    with joined_processes() as is_main:
        if is_main and note:
            typer.echo(f"note: {note}", err=True)
        total = num_steps(run.data, wish.training)
        with progress_bar("training", total, is_main) as advance:
            if recipe and places.folder:
                result = carry_out(run, places.folder, advance, recording or None, teacher)
            else:
                result = train(
                    run.model,
                    run.data,
                    wish.training,
                    run.plan,
                    advance,
                    recording=recording or None,
                    distillation=teacher,
                )
        if is_main:
            if not recipe:
                save_weights(run.model, places.weights)
            _print(result, places, note, as_json)


def _print(result: "TrainingResult", places: Places, note: str | None, as_json: bool) -> None:
    if as_json:
        folder = str(places.folder) if places.folder else None
        written = {"weights": str(places.weights), "run_dir": folder}
        print_json({**asdict(result), **written, "notes": [note] if note else []})
        return
    if result.resumed_at_step:
        show(f"resumed after step {result.resumed_at_step}")
    show(f"test accuracy {result.accuracy:.2%}")
    if result.stats:
        (cost, predicted), *_ = result.stats["costs"].items()
        show(f"predicted {cost} {predicted:.4g} {result.stats['unit']}")
    show(f"written to {places.weights}")
