"""What a plan tells besides its figures."""

import numpy as np
import pytest
from builders import conv_shape, workload_of

from cost_models import LayerWorkload
from spartan_planner.planning import ArrayWeights, parse_budget, plan_workload
from spartan_planner.planning.bounds import parse_bounds

WEAK = 1e-3
"""Weights so much smaller that a whole layer of them is worth less than a few of another."""


def plan(text, min_density=()):
    shape = conv_shape(64, 64, 1)
    workload = workload_of(*(LayerWorkload(name, shape, 4) for name in ("strong", "weak")))
    random = np.random.default_rng(0)
    strong = random.uniform(0.5, 1.0, shape.weight_shape)
    weights = ArrayWeights({"strong": strong, "weak": WEAK * strong})
    budgets = [parse_budget(item) for item in text.split()]
    bounds = parse_bounds((), min_density, ())
    return plan_workload(workload, weights, budgets, layouts=["tile:64x1"], bounds=bounds)


def about(made, word):
    return [warning for warning in made.warnings if word in warning]


def test_a_layer_of_which_almost_nothing_is_kept_is_named_with_what_to_do():
    made = plan("params=50%")
    (warning,) = about(made, "is kept of")
    assert "weak (" in warning
    assert "strong" not in warning
    assert "--min-density 'weak=5%'" in warning


def test_what_the_warning_advises_ends_it():
    assert not about(plan("params=50%", ["weak=5%"]), "is kept of")


@pytest.mark.parametrize(
    ("text", "costs"),
    [
        ("params=150%", ["params"]),
        ("params=100%", []),
        ("params=60% flops=1G", ["flops"]),
        ("params=60%", []),
    ],
)
def test_a_budget_above_the_dense_model_is_said_not_to_bind(text, costs):
    found = about(plan(text), "does not bind")
    assert [warning.split()[3] for warning in found] == costs
