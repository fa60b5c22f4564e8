"""The planner's part of the error tree whose root is in :mod:`cost_models.errors`."""

from cost_models.errors import (
    CostModelError,
    DocumentError,
    SpartanPlannerError,
    UnknownNameError,
)

__all__ = [
    "CostModelError",
    "DocumentError",
    "ExportError",
    "InfeasibleBudgetError",
    "ModelError",
    "NotFiniteError",
    "PlanError",
    "ProfileError",
    "SpartanPlannerError",
    "TrainingError",
    "TransportError",
    "UnknownNameError",
    "UsageError",
]


class UsageError(SpartanPlannerError):
    """An option or argument that cannot be understood."""


class ModelError(SpartanPlannerError):
    """A model that cannot be found, built or run."""


class TransportError(SpartanPlannerError):
    """Values, costs or a budget for which soft or hard top-k is not defined."""


class ProfileError(SpartanPlannerError):
    """A device that cannot be measured as asked."""


class PlanError(SpartanPlannerError):
    """A plan that cannot be made, or that does not belong to this model or profile."""


class InfeasibleBudgetError(PlanError):
    """A budget below what any plan can reach."""


class TrainingError(SpartanPlannerError):
    """Training cannot go on."""


class NotFiniteError(TrainingError):
    """Weights that are NaN or infinite, among which nothing can be selected."""


class ExportError(SpartanPlannerError):
    """A model that cannot be exported, or whose export does not compute the same."""
