"""Exporting models from which channels and heads are gone."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from test_channel_training import LAYOUTS, NETWORKS, batch, difference, network, plan_of, run

from spartan_planner.channels import channel_groups, load_pruned, save_pruned
from spartan_planner.channels.planned import inputs_as_planned, planned_groups
from spartan_planner.errors import ExportError
from spartan_planner.export import Form, export_onnx, prune_one_shot, smaller_model
from spartan_planner.export.kept_sizes import kept_sizes
from spartan_planner.export_metadata import read_graph, read_metadata
from spartan_planner.extraction import extract_workload
from spartan_planner.plan_model import plan as make_plan

SAME = 1e-5
"""Of outputs in float32, relative to the largest: sums over fewer terms, in another order."""


@pytest.fixture(params=[(n, layouts) for n in NETWORKS for layouts in LAYOUTS], ids="-".join)
def pruned(request):
    """A network with random statistics, pruned in one shot, and its plan."""
    name, layouts = request.param
    model = network(name)
    model.train()(batch()[0])
    plan = plan_of(model, LAYOUTS[layouts])
    model.eval()
    prune_one_shot(model, plan)
    return model, plan


def outputs(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def num_elements(path):
    return sum(int(np.prod(item.dims)) for item in read_graph(path).graph.initializer)


@pytest.mark.parametrize("form", [Form.LOWERED, Form.MASKED, Form.SPARSE])
def test_files_compute_what_the_masked_model_computes(tmp_path, pruned, form):
    model, plan = pruned
    report = export_onnx(model, plan, inputs_as_planned(plan), tmp_path / "m.onnx", form=form)
    images, _ = batch(5)
    with torch.no_grad():
        expected = model(images).numpy()
    found = outputs(report.path, images)
    assert np.abs(found - expected).max() <= SAME * np.abs(expected).max()


def test_lowered_files_are_physically_smaller(tmp_path, pruned):
    model, plan = pruned
    inputs = inputs_as_planned(plan)
    small = export_onnx(model, plan, inputs, tmp_path / "small.onnx")
    masked = export_onnx(model, plan, inputs, tmp_path / "masked.onnx", form=Form.MASKED)
    assert small.metadata.form == "lowered"
    num_gone = sum(layer.num_removed_weights for layer in plan.layers)
    assert num_elements(masked.path) - num_elements(small.path) >= num_gone


def test_the_promise_of_a_file_is_that_of_the_plan(tmp_path, pruned):
    model, plan = pruned
    report = export_onnx(model, plan, inputs_as_planned(plan), tmp_path / "m.onnx")
    promise = read_metadata(report.path)
    assert promise == report.metadata
    flops = next(cost for cost in promise.costs if cost.cost == "flops")
    assert flops.dense == plan.budget.dense
    assert flops.predicted <= plan.budget.asked
    whole = {layer.name: layer.num_weights + layer.num_removed_weights for layer in plan.layers}
    kept = sum(layer.num_weights * layer.density for layer in plan.layers)
    assert promise.density == pytest.approx(kept / sum(whole.values()))
    assert all(promise.densities[layer.name] < 1 for layer in plan.layers if layer.cut_by)


def test_masked_files_promise_dense_time_and_fewer_operations(tmp_path):
    model = network()
    plan = plan_of(model)
    prune_one_shot(model, plan)
    path = tmp_path / "m.onnx"
    report = export_onnx(model, plan, inputs_as_planned(plan), path, form=Form.MASKED)
    for cost in report.metadata.costs:
        planned = next(item for item in plan.all_costs if item.cost == cost.cost)
        is_counted = cost.cost in ("flops", "params")
        assert cost.predicted == (planned.predicted if is_counted else planned.dense)


def test_one_shot_pruning_keeps_the_plan_exactly(pruned):
    model, plan = pruned
    left = smaller_model(model, plan)
    workload = extract_workload(left.model, inputs_as_planned(plan), "smaller")
    found = {layer.name: layer.num_weights for layer in workload.layers}
    assert found == {layer.name: layer.num_weights for layer in plan.layers}
    sizes = kept_sizes(model, plan)
    assert plan.predicted("flops", sizes) <= plan.budget.asked
    assert all(sizes[layer.name] <= layer.kept_size * (1 + 1e-9) for layer in plan.sparse_layers)


@pytest.mark.parametrize("method", ["spartan", "magnitude"])
def test_trained_models_are_exported(tmp_path, pruned, method):
    model, plan = copy.deepcopy(pruned[0]), pruned[1]
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    sparsifier = run(model, plan, method)
    sparsifier.finalize()
    report = export_onnx(model, plan, inputs_as_planned(plan), tmp_path / "m.onnx")
    flops = next(cost for cost in report.metadata.costs if cost.cost == "flops")
    assert flops.predicted <= plan.budget.asked
    assert difference(model, smaller_model(model, plan).model) <= SAME


def test_smaller_models_are_saved_loaded_and_pruned_again(tmp_path):
    model = network()
    plan = plan_of(model)
    prune_one_shot(model, plan)
    left = smaller_model(model, plan).model
    save_pruned(left, tmp_path / "small.safetensors")
    loaded = load_pruned(network(seed=1), tmp_path / "small.safetensors")
    assert difference(left, loaded) == 0.0
    again = make_plan(
        loaded,
        inputs_as_planned(plan),
        budgets={"flops": "80%"},
        layouts=["channel"],
        channel_multiple=1,
    )
    prune_one_shot(loaded, again)
    assert difference(loaded, smaller_model(loaded, again).model) <= SAME


def test_weights_that_use_more_units_than_planned_are_refused(tmp_path):
    model = network()
    plan = plan_of(model)
    with pytest.raises(ExportError, match="units of channel group .* prune the weights in one"):
        export_onnx(model, plan, inputs_as_planned(plan), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_one_shot_pruning_chooses_the_planned_units():
    """By the sum of absolute weights over rows and columns, counted by hand."""
    model = network()
    plan = plan_of(model)
    (group,) = (g for g in channel_groups(model, inputs_as_planned(plan)) if "inner" in g.name)
    values = (
        model.inner.weight.abs().sum((1, 2, 3))
        + model.depthwise.weight.abs().sum((1, 2, 3))
        + model.outer.weight.abs().sum((0, 2, 3))
    )
    expected = sorted(values.argsort(descending=True)[: plan.kept_units[group.name]].tolist())
    prune_one_shot(model, plan)
    assert model.inner.weight.any(3).any(2).any(1).nonzero().flatten().tolist() == expected
    assert [item.name for item in planned_groups(model, plan)] == list(plan.kept_units)
