"""From weights, costs and budgets to a plan; needs no torch."""

from spartan_planner.planning.allocation import Allocation, LayerChoice, allocate
from spartan_planner.planning.bounds import Bound
from spartan_planner.planning.budget import Budget, parse_budget
from spartan_planner.planning.candidates import LayerCandidates, SparseCandidate
from spartan_planner.planning.channel_groups import ChannelWish
from spartan_planner.planning.document import (
    Plan,
    PlanBudget,
    PlanGroup,
    PlanLayer,
    PlanMeasurement,
    PlanProfile,
    Schedule,
    plan_fingerprint,
    read_plan,
)
from spartan_planner.planning.onnx_weights import OnnxWeights
from spartan_planner.planning.plan import make_plan
from spartan_planner.planning.plan_profile import profile_fingerprint, require_profile
from spartan_planner.planning.plan_workload import plan_workload
from spartan_planner.planning.policies import Policy
from spartan_planner.planning.problem import ROUNDING, PlanProblem, prepare
from spartan_planner.planning.request import PlanRequest
from spartan_planner.planning.safetensors_weights import SafetensorsWeights, read_index
from spartan_planner.planning.value_curves import ValueCurve, value_curve
from spartan_planner.planning.weights import (
    ArrayWeights,
    LayerValues,
    Weights,
    fingerprint_of,
)

__all__ = [
    "ROUNDING",
    "Allocation",
    "ArrayWeights",
    "Bound",
    "Budget",
    "ChannelWish",
    "LayerCandidates",
    "LayerChoice",
    "LayerValues",
    "OnnxWeights",
    "Plan",
    "PlanBudget",
    "PlanGroup",
    "PlanLayer",
    "PlanMeasurement",
    "PlanProblem",
    "PlanProfile",
    "PlanRequest",
    "Policy",
    "SafetensorsWeights",
    "Schedule",
    "SparseCandidate",
    "ValueCurve",
    "Weights",
    "allocate",
    "fingerprint_of",
    "make_plan",
    "parse_budget",
    "plan_fingerprint",
    "plan_workload",
    "prepare",
    "profile_fingerprint",
    "read_index",
    "read_plan",
    "require_profile",
    "value_curve",
]
