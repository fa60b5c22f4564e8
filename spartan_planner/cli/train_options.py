"""The options of ``train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

_LEARNING, _SPEED, _KEPT, _TEACHER = "Learning", "Speed and memory", "What is kept", "Distillation"


def _learning(name: str, text: str) -> Any:  # noqa: ANN401 - typer's own type is private
    return typer.Option(name, help=text, rich_help_panel=_LEARNING)


def _speed(name: str, text: str, variable: str | None = None) -> Any:  # noqa: ANN401 - as above
    return typer.Option(name, help=text, envvar=variable, rich_help_panel=_SPEED)


def _kept(name: str, text: str) -> Any:  # noqa: ANN401 - as above
    return typer.Option(name, help=text, rich_help_panel=_KEPT)


def _teacher(name: str, text: str) -> Any:  # noqa: ANN401 - as above
    return typer.Option(name, help=text, rich_help_panel=_TEACHER)


Data = Annotated[
    str,
    typer.Option(
        "--data", help="digits, an .npz file (images, labels), or package.module:factory."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Write the weights here (.safetensors); weights.safetensors in --run-dir without.",
    ),
]
OptionalPlan = Annotated[
    Path | None, typer.Option("--plan", help="The plan to train to; dense without one.")
]

Method = Annotated[
    str | None,
    _learning(
        "--method",
        "How to train: spartan, dual_averaging, magnitude or fixed; as the plan says without.",
    ),
]
Task = Annotated[
    str,
    _learning(
        "--task",
        "classification: logits (batch, classes); next_token: logits (batch, tokens, vocabulary), "
        "labels (batch, tokens) that follow.",
    ),
]
Epochs = Annotated[int, _learning("--epochs", "Passes over the data.")]
BatchSize = Annotated[
    int,
    _learning(
        "--batch-size", "Examples per optimizer step, over all processes and accumulation steps."
    ),
]
LearningRate = Annotated[float, _learning("--learning-rate", "Highest of the schedule.")]
LearningRateSchedule = Annotated[
    str, _learning("--schedule", "Of the learning rate: one_cycle, cosine or constant.")
]
Warmup = Annotated[
    float,
    _learning("--warmup", "Share of the steps in which cosine and constant rise from zero."),
]
WeightDecay = Annotated[
    float, _learning("--weight-decay", "On weights; never on norms and biases.")
]
LabelSmoothing = Annotated[
    float, _learning("--label-smoothing", "Of the cross-entropy, in [0, 1).")
]
OptimizerName = Annotated[str, _learning("--optimizer", "sgd or adamw.")]
ClipNorm = Annotated[
    float | None, _learning("--clip-norm", "Scale gradients down to this norm; not without.")
]

MixedPrecision = Annotated[
    str, _speed("--mixed-precision", "no, bf16 or fp16.", "ACCELERATE_MIXED_PRECISION")
]
AccumulationSteps = Annotated[
    int,
    _speed(
        "--accumulation-steps",
        "Parts that a batch is split into, one after the other, to save memory.",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    ),
]
Fsdp = Annotated[
    bool,
    _speed("--fsdp", "Spread the model over the processes (FSDP2) instead of copying it to each."),
]
Workers = Annotated[int, _speed("--workers", "Processes that load data, beside each that trains.")]

RunDir = Annotated[
    Path | None,
    _kept("--run-dir", "Keep log (log.jsonl, log.csv) and checkpoints in this folder."),
]
Resume = Annotated[
    bool,
    _kept("--resume", "Go on where the run in --run-dir stands; starts it where there is none."),
]
CheckpointEpochs = Annotated[
    int,
    _kept("--checkpoint-epochs", "Write a checkpoint after every so many passes, and at the end."),
]
CheckpointSteps = Annotated[
    int | None, _kept("--checkpoint-steps", "And after every so many steps; not without.")
]
KeepCheckpoints = Annotated[int, _kept("--keep-checkpoints", "How many, the newest, to keep.")]
LogSteps = Annotated[int, _kept("--log-steps", "Steps between two lines of the log.")]
Trackers = Annotated[
    list[str] | None,
    _kept(
        "--tracker",
        "tensorboard or wandb, with the extra 'trackers' installed; may be given twice.",
    ),
]

Distill = Annotated[
    Path | None,
    _teacher("--distill", "Learn from the logits of MODEL with the weights in this file, too."),
]
DistillWeight = Annotated[
    float, _teacher("--distill-weight", "Share of the loss that the teacher has, in (0, 1].")
]
DistillTemperature = Annotated[
    float, _teacher("--distill-temperature", "Both models' logits are divided by it.")
]
