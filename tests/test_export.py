from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from networks import TinyNetwork, tiny_inputs, tiny_network, tiny_plan

from cost_models import Layout
from spartan_planner.errors import DocumentError, ExportError, PlanError
from spartan_planner.export import Form, export_onnx, prune_one_shot
from spartan_planner.export.kept_sizes import kept_size, kept_sizes
from spartan_planner.export_metadata import read_metadata
from spartan_planner.onnx_sessions import open_session
from spartan_planner.plan_model import plan as make_plan

MAX_ABS_ERROR = 1e-4
"""Outputs are of order one; float32 sums of a few thousand terms in another order."""

OVERHEAD = 16_000
"""Bytes of a file besides its numbers: nodes and the exporter's remarks on them, names, shapes and
the promise; the network has a dozen nodes, about a kilobyte each."""


@pytest.fixture
def pruned():
    model = tiny_network().eval()
    plan = tiny_plan(model)
    prune_one_shot(model, plan)
    return model, plan


def run(path, inputs):
    session = open_session(path, {})
    return session.inference.run(None, {session.inference.get_inputs()[0].name: inputs})[0]


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("batch", [1, 5])
def test_files_compute_what_torch_computes_at_any_batch(tmp_path, pruned, form, batch):
    model, plan = pruned
    report = export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx", form=form)
    inputs = tiny_inputs(batch)[0]
    with torch.no_grad():
        expected = model(inputs).numpy()
    np.testing.assert_allclose(run(report.path, inputs.numpy()), expected, atol=MAX_ABS_ERROR)
    assert report.max_abs_error <= MAX_ABS_ERROR


def test_lowered_files_use_standard_operators_and_are_smaller(tmp_path, pruned):
    model, plan = pruned
    lowered = export_onnx(model, plan, tiny_inputs(), tmp_path / "lowered.onnx")
    masked = export_onnx(model, plan, tiny_inputs(), tmp_path / "masked.onnx", form=Form.MASKED)
    assert {layer.name for layer in lowered.lowered} == {layer.name for layer in plan.sparse_layers}
    assert masked.lowered == ()
    assert lowered.num_bytes < 0.7 * masked.num_bytes
    graph = onnx.load(lowered.path).graph
    assert {node.domain for node in graph.node} == {""}
    assert {"Gather", "Conv"} <= {node.op_type for node in graph.node}


def test_the_promise_travels_inside_the_file(tmp_path, pruned):
    model, plan = pruned
    report = export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx")
    metadata = read_metadata(report.path)
    assert metadata == report.metadata
    assert metadata.model_fingerprint == plan.model_fingerprint
    flops = next(cost for cost in metadata.costs if cost.cost == "flops")
    assert flops.predicted == pytest.approx(plan.budget.predicted, rel=1e-9)
    assert flops.predicted <= flops.asked


@pytest.mark.parametrize("form", list(Form))
def test_the_file_is_as_large_as_the_promise_says(tmp_path, form):
    model = tiny_network().eval()
    plan = tiny_plan(model, "50%", cost="memory")
    prune_one_shot(model, plan)
    report = export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx", form=form)
    (memory,) = (cost for cost in report.metadata.costs if cost.cost == "memory")
    assert 0 < report.num_bytes - memory.predicted <= OVERHEAD
    assert (memory.predicted == memory.dense) == (form is Form.MASKED)
    assert report.files == (report.path,)


def test_a_dense_model_needs_no_plan(tmp_path):
    report = export_onnx(tiny_network(), None, tiny_inputs(), tmp_path / "dense.onnx")
    assert read_metadata(report.path) == report.metadata
    assert (report.metadata.form, report.metadata.costs) == ("dense", ())


def test_one_shot_pruning_meets_the_plan_exactly(pruned):
    model, plan = pruned
    assert kept_sizes(model, plan) == {layer.name: layer.kept_size for layer in plan.sparse_layers}


def test_weights_above_the_budget_are_refused_and_nothing_is_written(tmp_path):
    model = tiny_network()
    plan = tiny_plan(model)
    with pytest.raises(ExportError, match=r"above the .* that the plan allows"):
        export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_another_model_is_refused(tmp_path, pruned):
    with pytest.raises(PlanError, match="make a plan for this model"):
        export_onnx(TinyNetwork(32), pruned[1], tiny_inputs(), tmp_path / "m.onnx")


def test_a_model_that_computes_something_else_is_refused(tmp_path):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)
            self.num_calls = 0

        def forward(self, x):
            self.num_calls += 1
            return self.layer(x) + self.num_calls

    inputs = (torch.ones(1, 4),)
    with pytest.raises(ExportError, match="computes another result than torch"):
        export_onnx(Counting(), None, inputs, tmp_path / "m.onnx", check_inputs=[inputs])
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_export_is_explained(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x + 1 if float(x.sum()) > 0 else x

    with pytest.raises(ExportError, match="torch cannot export this model"):
        export_onnx(Branching(), None, (torch.ones(1, 4),), tmp_path / "m.onnx")


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DocumentError, match="cannot be written"):
        export_onnx(tiny_network(), None, tiny_inputs(), tmp_path / "file" / "m.onnx")


@pytest.mark.parametrize(
    ("kept_inputs", "expected"), [((0, 0), 1), ((1, 0), 1), ((2, 3), 2), ((4, 4), 2), ((5, 1), 3)]
)
def test_counting_follows_the_fullest_group(kept_inputs, expected):
    weight = torch.zeros(4, 8, 3, 3)
    for group, count in enumerate(kept_inputs):
        weight[2 * group, :count] = 1
    assert kept_size(weight, Layout.parse("tile:2x1@2")) == expected


@pytest.mark.parametrize(
    ("shape", "layout", "kept", "expected"),
    [
        ((96, 4, 1, 1), "tile:64x1", (slice(64, 96), slice(0, 4)), 4 * 0.5),
        ((96, 4, 1, 1), "tile:64x1", (slice(0, 64), slice(0, 3)), 3.0),
        ((4, 10, 3, 3), "tile:2x1@4", (slice(0, 4), slice(0, 10)), 2.5),
        ((4, 10, 3, 3), "tile:2x1@4", (slice(0, 4), slice(0, 5)), 2.0),
    ],
)
def test_ragged_blocks_count_for_what_they_hold(shape, layout, kept, expected):
    weight = torch.zeros(shape)
    weight[kept] = 1
    assert kept_size(weight, Layout.parse(layout)) == expected


def test_one_shot_pruning_of_ragged_tiles_never_exceeds_the_plan():
    model = TinyNetwork(80).eval()
    plan = tiny_plan(model, "60%", layouts=["tile:64x3"])
    prune_one_shot(model, plan)
    assert plan.predicted("flops", kept_sizes(model, plan)) <= plan.budget.asked


def test_a_plan_made_at_other_shapes_is_refused(tmp_path, pruned):
    model, plan = pruned
    with pytest.raises(PlanError, match="plan again for these"):
        export_onnx(model, plan, torch.randn(1, 1, 16, 16), tmp_path / "m.onnx")


def test_layouts_that_lowering_would_pad_are_masked_unless_lowered_is_asked_for(tmp_path):
    model = tiny_network().eval()
    plan = tiny_plan(model, "60%", layouts=["tile:16x1"])
    prune_one_shot(model, plan)
    with pytest.raises(ExportError, match="use the form masked"):
        export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx", form=Form.LOWERED)
    report = export_onnx(model, plan, tiny_inputs(), str(tmp_path / "m.onnx"))
    assert (report.metadata.form, report.lowered) == ("masked", ())
    assert "which has no lowered form without padding" in report.notes[0]
    assert report.max_abs_error <= MAX_ABS_ERROR


def test_tied_convolutions_are_found_by_either_name(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(1, 64, 1)
            self.first = torch.nn.Conv2d(64, 64, 3, padding=1)
            self.second = torch.nn.Conv2d(64, 64, 3, padding=1)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(self.stem(x)))).mean((2, 3))

    torch.manual_seed(0)
    model = Tied().eval()
    plan = tiny_plan(model, "50%")
    prune_one_shot(model, plan)
    report = export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx")
    assert len(report.lowered) == 2


BUDGETS = {"flops": "50%", "params": "55%", "memory": "60%"}


@pytest.mark.parametrize("form", list(Form))
def test_every_one_of_several_budgets_travels_inside_the_file(tmp_path, form):
    model = tiny_network().eval()
    plan = make_plan(model, tiny_inputs(), budgets=BUDGETS)
    prune_one_shot(model, plan)
    report = export_onnx(model, plan, tiny_inputs(), tmp_path / "m.onnx", form=form)
    costs = {cost.cost: cost for cost in read_metadata(report.path).costs}
    for budget in plan.budgets:
        told = costs[budget.cost]
        assert (told.asked, told.dense) == (budget.asked, budget.dense)
        if form is Form.LOWERED or budget.cost != "memory":
            assert told.predicted == pytest.approx(budget.predicted, rel=1e-9)
            assert told.predicted <= told.asked
    assert 0 < report.num_bytes - costs["memory"].predicted <= OVERHEAD


@pytest.mark.parametrize("cost", BUDGETS)
def test_weights_above_any_one_of_several_budgets_are_refused(tmp_path, cost):
    model = tiny_network().eval()
    loose = make_plan(model, tiny_inputs(), budgets=BUDGETS)
    prune_one_shot(model, loose)
    index = [budget.cost for budget in loose.budgets].index(cost)
    budgets = list(loose.budgets)
    least = budgets[index].predicted * 0.99
    budgets[index] = replace(budgets[index], asked=least, predicted=least)
    strict = replace(loose, budgets=tuple(budgets))
    with pytest.raises(ExportError, match=f"of {cost}, above the"):
        export_onnx(model, strict, tiny_inputs(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
