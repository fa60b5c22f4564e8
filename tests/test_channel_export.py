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
from spartan_planner.torchvision_operators import prepare_torchvision

SAME = 1e-5
"""Of outputs in float32, relative to the largest: sums over fewer terms, in another order."""


@pytest.fixture(
    scope="module", params=[(n, layouts) for n in NETWORKS for layouts in LAYOUTS], ids="-".join
)
def pruned(request):
    """A network with statistics of some data, pruned in one shot, and its plan."""
    name, layouts = request.param
    model = network(name)
    model.train()(batch()[0])
    plan = plan_of(model, LAYOUTS[layouts])
    model.eval()
    prune_one_shot(model, plan)
    return model, plan


@pytest.fixture(scope="module")
def lowered(pruned, tmp_path_factory):
    """The report of the file that is written by default."""
    model, plan = pruned
    path = tmp_path_factory.mktemp("lowered") / "m.onnx"
    return export_onnx(model, plan, inputs_as_planned(plan), path)


def outputs(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def num_elements(path):
    return sum(int(np.prod(item.dims)) for item in read_graph(path).graph.initializer)


def require_same(model, path):
    images, _ = batch(5)
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    assert np.abs(outputs(path, images) - expected).max() <= SAME * np.abs(expected).max()


def test_files_compute_what_the_masked_model_computes_and_are_smaller(pruned, lowered):
    model, plan = pruned
    require_same(model, lowered.path)
    assert lowered.metadata.form == "lowered"
    num_left = sum(item.numel() for item in model.parameters())
    num_left -= sum(layer.num_removed_weights for layer in plan.layers)
    num_indices = sum(item.num_groups * item.num_inputs_per_group for item in lowered.lowered)
    assert num_elements(lowered.path) <= num_left + num_indices + NUM_CONSTANTS


NUM_CONSTANTS = 60
"""Shapes and axes that torch's exporter writes into these graphs."""


def test_the_promise_of_a_file_is_that_of_the_plan(pruned, lowered):
    promise, plan = read_metadata(lowered.path), pruned[1]
    assert promise == lowered.metadata
    flops = next(cost for cost in promise.costs if cost.cost == "flops")
    assert flops.dense == plan.budget.dense
    assert flops.predicted <= plan.budget.asked
    whole = {layer.name: layer.num_weights + layer.num_removed_weights for layer in plan.layers}
    kept = sum(layer.num_weights * layer.density for layer in plan.layers)
    assert promise.density == pytest.approx(kept / sum(whole.values()))
    assert all(promise.densities[layer.name] < 1 for layer in plan.layers if layer.cut_by)


@pytest.mark.parametrize("form", [Form.MASKED, Form.SPARSE])
def test_other_files_promise_dense_time_and_fewer_operations(tmp_path, form):
    model = network()
    plan = plan_of(model)
    prune_one_shot(model, plan)
    report = export_onnx(model, plan, inputs_as_planned(plan), tmp_path / "m.onnx", form=form)
    require_same(model, report.path)
    for cost in report.metadata.costs:
        planned = next(item for item in plan.all_costs if item.cost == cost.cost)
        is_counted = cost.cost in ("flops", "params")
        if cost.cost == "memory" and form is Form.SPARSE:
            continue  # what is stored of non-zeros only is in no plan
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


def test_trained_models_are_exported(tmp_path, pruned):
    model, plan = copy.deepcopy(pruned[0]), pruned[1]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2, torch.Generator().manual_seed(3))
    sparsifier = run(model, plan)
    sparsifier.finalize()
    report = export_onnx(model, plan, inputs_as_planned(plan), tmp_path / "m.onnx")
    require_same(model, report.path)
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
    with pytest.raises(ExportError, match=r"units of channel group .* prune the weights in one"):
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


def test_blocks_in_the_packed_projection_of_attention_that_loses_heads_are_lowered(tmp_path):
    prepare_torchvision()
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 1, 8, 256, 512, num_classes=10).eval()
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    images = torch.randn(1, 3, 32, 32)
    layouts = ("head", "tile:64x1@16")
    plan = make_plan(
        model, (images,), budgets={"flops": "35%"}, layouts=layouts, channel_multiple=1
    )
    (packed,) = (layer for layer in plan.layers if layer.name.endswith("in_proj_weight"))
    assert packed.layout == "tile:64x1@16"
    assert any(group.num_kept_units < group.num_units for group in plan.groups)
    prune_one_shot(model, plan)
    export_onnx(model, plan, (images,), tmp_path / "m.onnx")
    with torch.no_grad():
        expected = model(images).numpy()
    found = outputs(tmp_path / "m.onnx", images)
    assert np.abs(found - expected).max() <= SAME * np.abs(expected).max()
