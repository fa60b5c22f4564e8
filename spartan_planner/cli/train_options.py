"""The options of ``train``."""

from pathlib import Path
from typing import Annotated

import typer

OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="As for the other commands; the recipe's, with --recipe.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, .npz files (images, labels), imagefolder:PATH, torchvision:NAME?root=PATH, "
        "hf:NAME, text:PATH?context=128, or package.module:factory.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Take model, data, training and pruning from this: a name that 'recipes' lists, or "
        "a file.",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a key of the recipe: training.num_epochs=3. May be repeated."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Write the weights here (.safetensors), weights.safetensors in --run-dir without; "
        "with --recipe the folder for all that is written, the recipe's name without.",
    ),
]
OptionalPlan = Annotated[
    Path | None,
    typer.Option("--plan", help="The plan to train to; dense without one, or as the recipe says."),
]

Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="How to train: spartan, dual_averaging, magnitude or fixed; as the plan says without.",
    ),
]
Task = Annotated[
    str,
    typer.Option(
        "--task",
        help="classification: logits (batch, classes); next_token: logits (batch, tokens, "
        "vocabulary), labels (batch, tokens) that follow.",
    ),
]
Epochs = Annotated[int, typer.Option("--epochs", help="Passes over the data.")]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        help="Examples per optimizer step, over all processes and accumulation steps.",
    ),
]
LearningRate = Annotated[float, typer.Option("--learning-rate", help="Highest of the schedule.")]
LearningRateSchedule = Annotated[
    str, typer.Option("--schedule", help="Of the learning rate: one_cycle, cosine or constant.")
]
Warmup = Annotated[
    float,
    typer.Option(
        "--warmup", help="Share of the steps in which cosine and constant rise from zero."
    ),
]
WeightDecay = Annotated[
    float, typer.Option("--weight-decay", help="On weights; never on norms and biases.")
]
LabelSmoothing = Annotated[
    float, typer.Option("--label-smoothing", help="Of the cross-entropy, in [0, 1).")
]
OptimizerName = Annotated[str, typer.Option("--optimizer", help="sgd or adamw.")]
ClipNorm = Annotated[
    float | None,
    typer.Option("--clip-norm", help="Scale gradients down to this norm; not without."),
]

MixedPrecision = Annotated[
    str,
    typer.Option(
        "--mixed-precision", help="no, bf16 or fp16.", envvar="ACCELERATE_MIXED_PRECISION"
    ),
]
AccumulationSteps = Annotated[
    int,
    typer.Option(
        "--accumulation-steps",
        help="Parts that a batch is split into, one after the other, to save memory.",
        envvar="ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    ),
]
Fsdp = Annotated[
    bool,
    typer.Option(
        "--fsdp",
        help="Spread the model over the processes (FSDP2) instead of copying it to each.",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", help="Processes that load data, beside each that trains.")
]

RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Keep log (log.jsonl, log.csv) and checkpoints in this folder."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on where the run in the folder stands; starts it where there is none.",
    ),
]
CheckpointEpochs = Annotated[
    int,
    typer.Option(
        "--checkpoint-epochs", help="Write a checkpoint after every so many passes, and at the end."
    ),
]
CheckpointSteps = Annotated[
    int | None,
    typer.Option("--checkpoint-steps", help="And after every so many steps; not without."),
]
KeepCheckpoints = Annotated[
    int, typer.Option("--keep-checkpoints", help="How many, the newest, to keep.")
]
LogSteps = Annotated[int, typer.Option("--log-steps", help="Steps between two lines of the log.")]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        help="tensorboard or wandb, with the extra 'trackers' installed; may be given twice.",
    ),
]

Distill = Annotated[
    Path | None,
    typer.Option(
        "--distill", help="Learn from the logits of MODEL with the weights in this file, too."
    ),
]
DistillWeight = Annotated[
    float,
    typer.Option("--distill-weight", help="Share of the loss that the teacher has, in (0, 1]."),
]
DistillTemperature = Annotated[
    float, typer.Option("--distill-temperature", help="Both models' logits are divided by it.")
]
