"""Channel groups of torch models: what is removed computes what is masked."""

import copy
import random

import numpy as np
import pytest
import torch
import torch_pruning
from channel_networks import (
    NETWORKS,
    Attention,
    Chunked,
    Concatenated,
    Residual,
    hugging_face,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import import_models
from torch import nn

from cost_models import ChannelGroup, ChannelSlice
from spartan_planner.channels import (
    channel_groups,
    find_channels,
    load_pruned,
    mask_channels,
    remove_channels,
    save_pruned,
    unit_values,
)
from spartan_planner.channels.verified import relative_error
from spartan_planner.errors import DocumentError, ModelError, UsageError

ALLOWED_ERROR = 1e-5
"""Of outputs in float32, relative to the largest: sums over fewer terms in another order."""


def randomised(model: nn.Module) -> nn.Module:
    """Random norms and statistics: an untrained one would hide what is wrong with them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point() and len(tensor):
                noise = torch.rand(tensor.shape, generator=generator)
                is_shift = name.endswith(("bias", "running_mean"))
                tensor.copy_(noise - 0.5 if is_shift else noise + 0.5)
    return model.eval()


def outputs(model: nn.Module, inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(*inputs)
    if isinstance(result, torch.Tensor):
        return [result]
    return [item for item in result.values() if isinstance(item, torch.Tensor)]


def random_units(groups, seed: int) -> dict[str, list[int]]:
    chosen = random.Random(seed)
    return {
        group.name: sorted(
            chosen.sample(range(group.num_units), chosen.randint(1, group.num_units))
        )
        for group in groups
    }


def assert_smaller_equals_masked(model, inputs, seeds=(0, 1)) -> tuple[ChannelGroup, ...]:
    groups = channel_groups(model, inputs)
    assert groups
    for seed in seeds:
        kept = random_units(groups, seed)
        masked = copy.deepcopy(model)
        mask_channels(masked, groups, kept)
        smaller = remove_channels(model, groups, kept)
        for group in groups:
            for part in group.slices:
                lost = part.num_elements - len(part.elements(kept[group.name]))
                assert lost >= 0
        assert relative_error(outputs(masked, inputs), outputs(smaller, inputs)) <= ALLOWED_ERROR
        count = sum(parameter.numel() for parameter in smaller.parameters())
        assert count == num_parameters_left(model, groups, kept)
    return groups


def num_parameters_left(model, groups, kept) -> int:
    """Counted with boolean masks over the dimensions, not by the shapes of the smaller model."""
    left = 0
    for name, parameter in model.named_parameters():
        keeps = [torch.ones(size, dtype=torch.bool) for size in parameter.shape]
        for group in groups:
            for part in group.slices_of(name):
                gone = set(range(group.num_units)) - set(kept[group.name])
                keeps[part.dim][list(part.elements(gone))] = False
        left += int(np.prod([int(keep.sum()) for keep in keeps]))
    return left


@pytest.mark.parametrize("name", NETWORKS)
def test_smaller_networks_equal_masked_ones(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    assert_smaller_equals_masked(randomised(build()), (torch.randn(shape),), seeds=range(4))


MODELS = {
    "resnet18": (32, 12, 0),
    "mobilenet_v3_small": (32, 27, 0),
    "shufflenet_v2_x0_5": (32, 20, 0),
    "squeezenet1_1": (64, 25, 0),
    "regnet_y_400mf": (32, 38, 0),
}
"""Of torchvision: side of the input, number of groups, how many of these are of heads."""


@pytest.mark.parametrize("name", MODELS)
def test_smaller_models_of_torchvision_equal_masked_ones(name):
    side, num_groups, num_heads = MODELS[name]
    torch.manual_seed(0)
    model = randomised(import_models("torchvision.models").get_model(name, weights=None))
    groups = assert_smaller_equals_masked(model, (torch.randn(1, 3, side, side),), seeds=[0])
    assert len(groups) == num_groups
    assert sum(group.kind == "head" for group in groups) == num_heads


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_smaller_language_models_equal_masked_ones(name):
    torch.manual_seed(0)
    model, ids = hugging_face(name)
    groups = assert_smaller_equals_masked(randomised(model), (ids,))
    heads = [group for group in groups if group.kind == "head"]
    assert [group.num_units for group in heads] == [2 if name == "llama" else 4] * 2


def test_grouped_query_heads_go_with_their_queries():
    model, ids = hugging_face("llama")
    head = next(group for group in channel_groups(model, ids) if group.kind == "head")
    prefix = "model.layers.0.self_attn"
    # Eight query heads of four features share two heads of keys and values.
    assert {part.tensor: len(part.indices[0]) for part in head.slices} == {
        f"{prefix}.q_proj.weight": 16,
        f"{prefix}.k_proj.weight": 4,
        f"{prefix}.v_proj.weight": 4,
        f"{prefix}.o_proj.weight": 16,
    }


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_groups_are_those_of_an_independent_dependency_graph(name):
    # Torch-Pruning finds the same coupled channels by walking autograd's graph.
    torch.manual_seed(0)
    model = import_models("torchvision.models").get_model(name, weights=None).eval()
    inputs = torch.randn(1, 3, 64, 64)
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    theirs = set()
    for group in graph.get_all_groups(ignored_layers=[last]):
        producers = {
            dep.target.name.split(" ")[0] + ".weight"
            for dep, _ in group
            if graph.is_out_channel_pruning_fn(dep.handler)
            and isinstance(dep.target.module, nn.Conv2d | nn.Linear)
        }
        theirs.add(frozenset(producers))
    ours = {
        frozenset(part.tensor for part in group.slices if part.role == "output")
        for group in channel_groups(model, inputs)
    }
    assert ours == theirs


def test_concatenated_channels_are_apart_and_find_their_columns():
    model = Concatenated().eval()
    groups = {g.name: g for g in channel_groups(model, torch.randn(1, 3, 8, 8))}
    columns = {
        name: group.slices_of("mix.weight")[0].indices
        for name, group in groups.items()
        if group.slices_of("mix.weight")
    }
    first, second = columns["left.weight"], columns["right.weight"]
    assert first == tuple((at,) for at in range(6))
    assert second == tuple((6 + at,) for at in range(10))


def test_halves_that_are_taken_apart_lose_the_same_channels():
    groups = channel_groups(Chunked().eval(), torch.randn(1, 3, 8, 8))
    assert groups[0].num_units == 4
    assert groups[0].slices[0].indices == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_outputs_and_streams_before_a_layer_norm_stay():
    model = Attention().eval()
    found = find_channels(model, torch.randn(2, 5, 16))
    assert {group.name for group in found.groups} == {"attend.in_proj_weight", "up.weight"}
    assert {item.name for item in found.left_out} == {
        "embed.weight",
        "attend.out_proj.weight",
        "down.weight",
        "head.weight",
    }
    reasons = {item.name: item.reason for item in found.left_out}
    assert reasons["embed.weight"] == "a norm takes statistics over it"
    assert reasons["head.weight"] == "the model's output consists of it"


class FixedView(nn.Module):
    """A reshape whose sizes are written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 6, 3)
        self.last = nn.Linear(6, 2)

    def forward(self, images):
        hidden = self.first(images)
        hidden = hidden.view(1, 8, hidden.shape[2], hidden.shape[3])
        return self.last(torch.relu(self.second(hidden)).mean((2, 3)))


def test_what_the_code_fixes_is_left_out_with_the_reason():
    found = find_channels(FixedView().eval(), torch.randn(1, 3, 8, 8))
    assert [group.name for group in found.groups] == ["second.weight"]
    reason = next(item.reason for item in found.left_out if item.name == "first.weight")
    assert "the smaller model does not run" in reason


class Sorted(nn.Module):
    """Channels through an operation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, features):
        return self.last(self.first(features).sort(-1).values)


def test_operations_without_a_rule_keep_their_channels():
    found = find_channels(Sorted().eval(), torch.randn(3, 4))
    assert found.groups == ()
    assert found.left_out[0].reason == "it goes through sort, which is not followed"


def test_smaller_models_are_trained_and_pruned_again(tmp_path):
    torch.manual_seed(0)
    model, images = Residual(), torch.randn(4, 3, 8, 8)
    groups = channel_groups(model, images)
    smaller = remove_channels(model, groups, random_units(groups, 5))
    smaller.train()
    optimizer = torch.optim.SGD(smaller.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in smaller.parameters()]
    smaller(images).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, smaller.parameters(), strict=True))

    smaller.eval()
    again = channel_groups(smaller, images)
    kept = random_units(again, 6)
    smallest = remove_channels(smaller, again, kept)
    mask_channels(smaller, again, kept)
    expected = outputs(smaller, (images,))
    assert relative_error(expected, outputs(smallest, (images,))) <= ALLOWED_ERROR
    save_pruned(smallest, tmp_path / "smallest.safetensors")
    loaded = load_pruned(Residual().eval(), tmp_path / "smallest.safetensors")
    assert torch.equal(outputs(smallest, (images,))[0], outputs(loaded, (images,))[0])


@pytest.mark.parametrize("name", ["attention", "depthwise", "grouped", "group norm"])
def test_saved_models_come_back(name, tmp_path):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = randomised(build()), (torch.randn(shape),)
    groups = channel_groups(model, inputs)
    smaller = remove_channels(model, groups, random_units(groups, 2))
    save_pruned(smaller, tmp_path / "m.safetensors")
    loaded = load_pruned(build().eval(), tmp_path / "m.safetensors")
    assert torch.equal(outputs(smaller, inputs)[0], outputs(loaded, inputs)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    for module, other in zip(smaller.modules(), loaded.modules(), strict=True):
        assert module.extra_repr() == other.extra_repr()


def test_files_of_other_models_are_refused(tmp_path):
    model = Residual().eval()
    groups = channel_groups(model, torch.randn(1, 3, 8, 8))
    path = tmp_path / "m.safetensors"
    smaller = remove_channels(model, groups, random_units(groups, 1))
    save_pruned(smaller, path)
    with pytest.raises(ModelError, match="was not made from this model"):
        load_pruned(Concatenated(), path)
    with pytest.raises(ModelError, match="was not made from this model"):
        load_pruned(Residual(width=12), path)
    with pytest.raises(ModelError, match="load into a fresh one"):
        load_pruned(smaller, path)


def test_broken_files_are_refused(tmp_path):
    model = Residual().eval()
    path = tmp_path / "m.safetensors"
    with pytest.raises(DocumentError, match="does not exist"):
        load_pruned(model, path)
    save_pruned(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DocumentError, match="cut off"):
        load_pruned(model, path)
    path.write_bytes(whole.replace(b"schema_version", b"schema_persion"))
    with pytest.raises(DocumentError, match="does not say properly"):
        load_pruned(model, path)
    from safetensors.torch import save_file

    save_file(dict(model.state_dict()), path)
    with pytest.raises(DocumentError, match="does not say which channels"):
        load_pruned(model, path)


def test_bad_selections_are_refused_before_anything_changes():
    model, images = Residual().eval(), torch.randn(1, 3, 8, 8)
    groups = channel_groups(model, images)
    name = groups[0].name
    for kept, message in (
        ({"nothing": [0]}, "no channel group 'nothing'"),
        ({name: []}, "keep at least one"),
        ({name: [0, 0]}, "each named once"),
        ({name: [999]}, "has units 0 to"),
    ):
        with pytest.raises(UsageError, match=message):
            remove_channels(model, groups, kept)
    smaller = remove_channels(model, groups, {name: [0]})
    with pytest.raises(ModelError, match="find the model's groups anew"):
        remove_channels(smaller, groups, {name: [0]})
    with pytest.raises(ModelError, match="those of another model"):
        mask_channels(Concatenated(), groups, {name: [0]})


def test_models_that_do_not_run_are_refused():
    with pytest.raises(ModelError, match=r"does not run on inputs of shape \(1, 4, 8, 8\)"):
        channel_groups(Residual(), torch.randn(1, 4, 8, 8))
    with torch.device("meta"):
        model = Residual()
    with pytest.raises(ModelError, match="without --meta"):
        channel_groups(model, torch.randn(1, 3, 8, 8))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_value_of_a_unit_is_what_masking_it_takes_away(seed):
    torch.manual_seed(seed)
    model = Residual().eval()
    groups = (
        ChannelGroup(
            "stem.weight",
            "channel",
            4,
            (
                ChannelSlice("stem.weight", 0, ((0,), (1,), (2,), (3,)), "output"),
                ChannelSlice("norm.weight", 0, ((0,), (1,), (2,), (3,)), "vector"),
                ChannelSlice("inner.weight", 1, ((0,), (1,), (2,), (3,)), "input"),
            ),
        ),
    )
    values = unit_values(model, groups)["stem.weight"]
    for unit in range(4):
        masked = copy.deepcopy(model)
        mask_channels(masked, groups, {"stem.weight": [at for at in range(4) if at != unit]})
        lost = sum(
            (item.detach().double().abs().sum() - other.detach().double().abs().sum()).item()
            for item, other in (
                (model.stem.weight, masked.stem.weight),
                (model.inner.weight, masked.inner.weight),
            )
        )
        assert values[unit] == pytest.approx(lost, rel=1e-12)


def test_normalisation_of_a_masked_channel_is_neutral_while_training():
    model, images = Residual(), torch.randn(4, 3, 8, 8)
    groups = channel_groups(model, images)
    group = next(item for item in groups if item.name == "inner.weight")
    mask_channels(model, groups, {group.name: range(1, group.num_units)})
    seen = []
    model.inner_norm.register_forward_hook(lambda *given: seen.append(given[2]))
    model.train()(images)
    assert not seen[0][:, 0].any()
    assert seen[0][:, 1:].any()


def test_finding_groups_leaves_the_model_as_it_was():
    model, images = Residual().train(), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    channel_groups(model, images)
    assert model.training
    assert all(torch.equal(before[name], item) for name, item in model.state_dict().items())


class WithAuxiliary(nn.Module):
    """A second classifier that only training reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.last, self.beside = nn.Linear(8, 2), nn.Linear(8, 2)
        self.never = nn.Linear(3, 3, bias=False)

    def forward(self, images):
        hidden = self.norm(self.first(images)).mean((2, 3))
        return (self.last(hidden), self.beside(hidden)) if self.training else self.last(hidden)


def test_layers_that_only_training_reads_shrink_with_the_others():
    model, images = WithAuxiliary().eval(), torch.randn(1, 3, 8, 8)
    found = find_channels(model, images)
    assert {part.tensor for part in found.groups[0].slices} >= {"last.weight", "beside.weight"}
    assert [item.name for item in found.left_out] == [
        "last.weight",
        "beside.weight",
        "never.weight",
    ]
    smaller = remove_channels(model, found.groups, {"first.weight": [0, 3]})
    assert smaller.train()(images)[1].shape == (1, 2)
