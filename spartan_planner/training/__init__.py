"""Training with a plan: the sparsifier, its schedules and a thin loop."""

from spartan_planner.training.datasets import DataSplit, load_data
from spartan_planner.training.loop import (
    TrainingResult,
    TrainingSettings,
    evaluate,
    num_steps,
    train,
)
from spartan_planner.training.methods import (
    DualAveraging,
    Fixed,
    Magnitude,
    Method,
    Spartan,
    default_schedule,
    method_named,
)
from spartan_planner.training.sparsifier import Sparsifier
from spartan_planner.training.sparsifier_state import StateDict

__all__ = [
    "DataSplit",
    "DualAveraging",
    "Fixed",
    "Magnitude",
    "Method",
    "Sparsifier",
    "Spartan",
    "StateDict",
    "TrainingResult",
    "TrainingSettings",
    "default_schedule",
    "evaluate",
    "load_data",
    "method_named",
    "num_steps",
    "train",
]
