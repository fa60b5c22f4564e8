"""Training with a plan: the sparsifier, its schedules, and an engine around it."""

from spartan_planner.training.datasets import DataSplit, load_data
from spartan_planner.training.engine import TrainingResult, train
from spartan_planner.training.evaluation import evaluate
from spartan_planner.training.losses import Distillation
from spartan_planner.training.methods import (
    DualAveraging,
    Fixed,
    Magnitude,
    Method,
    Spartan,
    default_schedule,
    method_named,
)
from spartan_planner.training.optimization import make_optimizer, num_steps
from spartan_planner.training.settings import Recording, TrainingSettings
from spartan_planner.training.sparsifier import Sparsifier
from spartan_planner.training.sparsifier_state import StateDict

__all__ = [
    "DataSplit",
    "Distillation",
    "DualAveraging",
    "Fixed",
    "Magnitude",
    "Method",
    "Recording",
    "Sparsifier",
    "Spartan",
    "StateDict",
    "TrainingResult",
    "TrainingSettings",
    "default_schedule",
    "evaluate",
    "load_data",
    "make_optimizer",
    "method_named",
    "num_steps",
    "train",
]
