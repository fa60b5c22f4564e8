"""From values, costs and a budget to a plan; needs no torch."""

from spartan_planner.planning.allocation import Allocation, LayerChoice, allocate
from spartan_planner.planning.budget import Budget, parse_budget
from spartan_planner.planning.candidates import LayerCandidates, SparseCandidate
from spartan_planner.planning.document import (
    Plan,
    PlanBudget,
    PlanLayer,
    PlanMeasurement,
    PlanProfile,
    Schedule,
    plan_fingerprint,
    read_plan,
)
from spartan_planner.planning.plan import ROUNDING, make_plan

__all__ = [
    "ROUNDING",
    "Allocation",
    "Budget",
    "LayerCandidates",
    "LayerChoice",
    "Plan",
    "PlanBudget",
    "PlanLayer",
    "PlanMeasurement",
    "PlanProfile",
    "Schedule",
    "SparseCandidate",
    "allocate",
    "make_plan",
    "parse_budget",
    "plan_fingerprint",
    "read_plan",
]
