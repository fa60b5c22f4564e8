"""From weights, costs and budgets to a plan; needs no torch."""

from spartan_planner.planning.allocation import Allocation, LayerChoice, allocate
from spartan_planner.planning.bounds import Bound
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
from spartan_planner.planning.onnx_weights import OnnxWeights
from spartan_planner.planning.plan import ROUNDING, PlanProblem, make_plan, prepare
from spartan_planner.planning.plan_workload import plan_workload
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.safetensors_weights import SafetensorsWeights, read_index
from spartan_planner.planning.value_curves import ValueCurve, value_curve
from spartan_planner.planning.weights import ArrayWeights, LayerValues, Weights

__all__ = [
    "ROUNDING",
    "Allocation",
    "ArrayWeights",
    "Bound",
    "Budget",
    "LayerCandidates",
    "LayerChoice",
    "LayerValues",
    "OnnxWeights",
    "Plan",
    "PlanBudget",
    "PlanLayer",
    "PlanMeasurement",
    "PlanProblem",
    "PlanProfile",
    "Policy",
    "SafetensorsWeights",
    "Schedule",
    "SparseCandidate",
    "ValueCurve",
    "Weights",
    "allocate",
    "make_plan",
    "parse_budget",
    "plan_fingerprint",
    "plan_workload",
    "prepare",
    "read_index",
    "read_plan",
    "value_curve",
]
