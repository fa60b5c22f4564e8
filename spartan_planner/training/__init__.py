"""Training with a plan: the sparsifier, its schedules and a thin loop."""

from spartan_planner.training.datasets import DataSplit, load_data
from spartan_planner.training.loop import (
    TrainingResult,
    TrainingSettings,
    evaluate,
    num_steps,
    train,
)
from spartan_planner.training.sparsifier import Sparsifier

__all__ = [
    "DataSplit",
    "Sparsifier",
    "TrainingResult",
    "TrainingSettings",
    "evaluate",
    "load_data",
    "num_steps",
    "train",
]
