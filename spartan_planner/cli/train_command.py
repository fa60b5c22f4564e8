"""``train``: dense, or to a plan."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

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
from spartan_planner.progress import progress_bar

if TYPE_CHECKING:
    from spartan_planner.training import TrainingResult


def train_command(
    model: Model,
    data: given.Data,
    out: given.Out = None,
    plan: given.OptionalPlan = None,
    checkpoint: Checkpoint = None,
    method: given.Method = None,
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
    fsdp: given.Fsdp = False,
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
    if weights.suffix != ".safetensors":
        raise UsageError(f"weights are written as safetensors; name {weights} with .safetensors")
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
    from spartan_planner.training.processes import joined_processes

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
        is_sharded=fsdp,
    )
    sources = {"model": model, "data": data, "checkpoint": checkpoint, "teacher": distill}
    recording = run_dir and Recording(
        folder=run_dir,
        resume=resume,
        checkpoint_epochs=checkpoint_epochs,
        checkpoint_steps=checkpoint_steps,
        num_kept_checkpoints=keep_checkpoints,
        log_steps=log_steps,
        trackers=tuple(tracker or ()),
        origin={name: str(source) if source else None for name, source in sources.items()},
    )
    made = read_plan(plan) if plan else None
    split = load_data(data)
    loaded = load_model(model, seed)
    if checkpoint:
        load_weights(loaded, checkpoint)
    distillation = None
    if distill:
        distillation = Distillation(load_model(model, seed), distill_weight, distill_temperature)
        load_weights(distillation.teacher, distill)
    with joined_processes() as is_main:
        with progress_bar("training", num_steps(split, settings), is_main) as advance:
            result = train(
                loaded,
                split,
                settings,
                made,
                advance,
                recording=recording or None,
                distillation=distillation,
            )
        if is_main:
            save_weights(loaded, weights)
            _print(result, weights, run_dir, as_json)


def _print(result: "TrainingResult", weights: Path, run_dir: Path | None, as_json: bool) -> None:
    if as_json:
        folder = str(run_dir) if run_dir else None
        print_json({**asdict(result), "weights": str(weights), "run_dir": folder})
        return
    if result.resumed_at_step:
        show(f"resumed after step {result.resumed_at_step}")
    show(f"test accuracy {result.accuracy:.2%}")
    if result.stats:
        (cost, predicted), *_ = result.stats["costs"].items()
        show(f"predicted {cost} {predicted:.4g} {result.stats['unit']}")
    show(f"written to {weights}")


def _weights_path(
    out: Path | None, run_dir: Path | None, resume: bool, tracker: list[str] | None
) -> Path:
    """Return where the weights go, once it is clear where everything goes."""
    for option, is_given in (("--resume", resume), ("--tracker", tracker)):
        if is_given and not run_dir:
            raise UsageError(f"{option} needs the folder of a run; give --run-dir too")
    if run_dir and run_dir.exists() and not run_dir.is_dir():
        raise UsageError(f"{run_dir} is not a folder; give --run-dir the name of one")
    path = out or (run_dir and run_dir / "weights.safetensors")
    if not path:
        raise UsageError("give --out, --run-dir or both, to say where the weights are written")
    return path
