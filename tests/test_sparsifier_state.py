"""A sparsifier that is saved and resumed goes on as if nothing had happened, bit for bit."""

import copy
import io
import json

import pytest
import torch
from networks import tiny_inputs, tiny_network, tiny_plan
from torch.nn.functional import cross_entropy

from spartan_planner.errors import TrainingError
from spartan_planner.plan_model import plan as make_plan
from spartan_planner.planning import Schedule
from spartan_planner.training import Sparsifier

NUM_STEPS = 20


def plans():
    """One budget, two of them, and an n:m pattern."""
    model, inputs = tiny_network(), tiny_inputs()
    two = {"flops": "45%", "params": "50%"}
    return {
        "tile:64x1@16": tiny_plan(model, "40%", layouts=["tile:64x1@16"]),
        "element": make_plan(model, inputs, budgets=two, layouts=["element"]),
        "2:4": make_plan(model, inputs, budgets={"params": "55%"}, layouts=["2:4"]),
    }


PLANS = plans()
SCHEDULE = {"spartan": Schedule(beta=3.0, beta_rule="spread")}


class Run:
    """A model, its optimizer and its sparsifier, and steps of training."""

    def __init__(self, plan, method, seed=0, schedule=None):
        self.model = tiny_network(seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        chosen = schedule or SCHEDULE.get(method)
        self.sparsifier = Sparsifier(
            self.model, plan, self.optimizer, NUM_STEPS, method, schedule=chosen
        )

    def steps(self, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(8, 1, 8, 8, generator=generator)
            labels = torch.randint(0, 10, (8,), generator=generator)
            self.optimizer.zero_grad()
            cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()
        return self

    def saved(self):
        """Everything as a file would hold it: numbers through JSON, tensors through bytes."""
        state = self.sparsifier.state_dict()
        buffer = io.BytesIO()
        states = (self.model.state_dict(), self.optimizer.state_dict(), state["tensors"])
        torch.save(states, buffer)
        buffer.seek(0)
        model, optimizer, tensors = torch.load(buffer, weights_only=True)
        numbers = json.loads(json.dumps(state["numbers"]))
        return model, optimizer, {"numbers": numbers, "tensors": tensors}

    def load(self, saved):
        model, optimizer, state = saved
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.sparsifier.load_state_dict(state)
        return self


@pytest.mark.parametrize("layout", PLANS)
@pytest.mark.parametrize("method", ["spartan", "dual_averaging", "magnitude"])
def test_a_resumed_run_is_the_uninterrupted_one(method, layout):
    whole = Run(PLANS[layout], method)
    saves = {}
    for step in range(NUM_STEPS):
        whole.steps(step, step + 1)
        if step + 1 in (2, 11, 18):
            saves[step + 1] = copy.deepcopy(whole.saved())
    expected = whole.model.state_dict()
    for step, saved in saves.items():
        resumed = Run(PLANS[layout], method, seed=1).load(saved).steps(step, NUM_STEPS)
        found = resumed.model.state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected), step
        assert resumed.sparsifier.stats() == whole.sparsifier.stats()


def test_a_state_before_the_first_step_is_one_too():
    saved = Run(PLANS["element"], "spartan").saved()
    resumed = Run(PLANS["element"], "spartan", seed=1).load(saved).steps(0, 3)
    expected = Run(PLANS["element"], "spartan").steps(0, 3).model.state_dict()
    assert torch.equal(resumed.model.state_dict()["body.weight"], expected["body.weight"])


@pytest.mark.parametrize(
    ("layout", "method", "schedule", "message"),
    [
        ("2:4", "spartan", None, "with plan"),
        ("element", "magnitude", None, "with method magnitude"),
        ("element", "spartan", Schedule(beta=4.0), "with schedule"),
    ],
)
def test_a_state_of_another_run_is_refused(layout, method, schedule, message):
    saved = Run(PLANS[layout], method, schedule=schedule).steps(0, 4).saved()
    other = Run(PLANS["element"], "spartan")
    before = other.sparsifier.state_dict()["numbers"]
    with pytest.raises(TrainingError, match=message):
        other.sparsifier.load_state_dict(saved[2])
    assert other.sparsifier.state_dict()["numbers"] == before


def test_weights_of_another_moment_are_refused():
    run = Run(PLANS["element"], "spartan").steps(0, 4)
    state = copy.deepcopy(run.saved()[2])
    run.steps(4, 5)
    with pytest.raises(TrainingError, match="load the model's weights of the same moment first"):
        run.sparsifier.load_state_dict(state)
