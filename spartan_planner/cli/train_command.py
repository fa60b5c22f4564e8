"""``train``: dense, or to a plan."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spartan_planner.cli import train_options as given
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
from spartan_planner.progress import no_progress, progress_bar

if TYPE_CHECKING:
    from spartan_planner.training import Distillation, TrainingResult


def train_command(
    model: Model,
    data: given.Data,
    out: given.Out = None,
    plan: given.OptionalPlan = None,
    checkpoint: Checkpoint = None,
    method: given.Method = "spartan",
    task: given.Task = "classification",
    epochs: given.Epochs = 6,
    batch_size: given.BatchSize = 64,
    learning_rate: given.LearningRate = 0.05,
    schedule: given.LearningRateSchedule = "one_cycle",
    warmup: given.Warmup = 0.0,
    weight_decay: given.WeightDecay = 5e-4,
    label_smoothing: given.LabelSmoothing = 0.1,
    optimizer: given.OptimizerName = "sgd",
    clip_norm: given.ClipNorm = None,
    seed: Seed = 0,
    mixed_precision: given.MixedPrecision = "no",
    accumulation_steps: given.AccumulationSteps = 1,
    workers: given.Workers = 0,
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
    """Train MODEL on a data set; with --plan, to the plan's budget, by Spartan.

    On several devices or nodes: the same command behind 'accelerate launch' or 'torchrun'.
    """
    weights = _weights_path(out, run_dir, resume, tracker)
    require_output(weights, plan, checkpoint, distill, Path(data))
    from spartan_planner.checkpoints import load_weights, save_weights
    from spartan_planner.model_names import load_model
    from spartan_planner.planning import read_plan
    from spartan_planner.training import (
        Distillation,
        Recording,
        TrainingSettings,
        load_data,
        num_steps,
        train,
    )
    from spartan_planner.training.processes import is_main_process, leave_processes

    settings = TrainingSettings(
        num_epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        optimizer=optimizer,
        seed=seed,
        schedule=schedule,
        warmup_fraction=warmup,
        task=task,
        method=method,
        num_accumulation_steps=accumulation_steps,
        max_gradient_norm=clip_norm,
        mixed_precision=mixed_precision,
        num_workers=workers,
    )
