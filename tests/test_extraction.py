import pytest
import torch
from torch import nn

from spartan_planner.errors import ModelError
from spartan_planner.extraction import extract_workload, model_fingerprint

CASES = [
    ("conv", nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), "conv2d", 120, 8 * 3 * 9 * 120),
    ("strided", nn.Conv2d(4, 6, 5, stride=2, padding=2), (1, 4, 9, 9), "conv2d", 25, 600 * 25),
    ("grouped", nn.Conv2d(8, 8, 3, groups=8), (1, 8, 6, 6), "conv2d", 16, 8 * 9 * 16),
    ("conv1d", nn.Conv1d(4, 4, 3), (1, 4, 10), "conv1d", 8, 48 * 8),
    ("conv3d", nn.Conv3d(2, 2, 3), (1, 2, 4, 4, 4), "conv3d", 8, 108 * 8),
    ("transposed", nn.ConvTranspose2d(4, 5, 2, stride=2), (1, 4, 3, 3), "conv_transpose2d", 9, 720),
    ("linear", nn.Linear(7, 5), (1, 7), "linear", 1, 35),
    ("tokens", nn.Linear(7, 5, bias=False), (1, 11, 7), "linear", 11, 35 * 11),
]


@pytest.mark.parametrize(
    ("layer", "shape", "op", "positions", "macs"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_one_layer(layer, shape, op, positions, macs):
    workload = extract_workload(layer, [torch.randn(shape)], "one")
    (found,) = workload.layers
    assert (found.name, found.shape.op) == ("weight", op)
    assert found.shape.weight_shape == tuple(layer.weight.shape)
    assert (found.positions, found.macs) == (positions, macs)
    assert workload.num_parameters == sum(p.numel() for p in layer.parameters())


def test_positions_are_per_sample_of_a_batch():
    workload = extract_workload(nn.Conv2d(3, 4, 1), [torch.randn(5, 3, 6, 6)], "batch")
    assert workload.layers[0].positions == 36


def test_a_tied_weight_is_one_layer_with_all_its_uses():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(6, 6)

        def forward(self, x):
            return self.shared(torch.relu(self.shared(x)))

    (layer,) = extract_workload(Tied(), [torch.randn(1, 6)], "tied").layers
    assert (layer.num_uses, layer.positions, layer.macs) == (2, 2, 72)


def test_attention_is_found_with_its_packed_projection():
    attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    workload = extract_workload(attention, [torch.randn(1, 5, 16)], "encoder")
    macs = {layer.name: layer.macs for layer in workload.layers}
    assert macs == {
        "self_attn.in_proj_weight": 3 * 16 * 16 * 5,
        "self_attn.out_proj.weight": 16 * 16 * 5,
        "linear1.weight": 16 * 32 * 5,
        "linear2.weight": 32 * 16 * 5,
    }


def test_embedding_multiplies_nothing_and_is_not_pruned():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, tokens):
            return self.head(self.table(tokens))

    workload = extract_workload(Words(), [torch.zeros(1, 4, dtype=torch.int64)], "words")
    table, head = workload.layers
    assert (table.shape.op, table.macs, table.prunable) == ("embedding", 0, False)
    assert (head.macs, head.prunable) == (24 * 4, True)


def test_what_consumes_no_weight_is_listed_and_not_priced():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten())
    workload = extract_workload(model, [torch.randn(1, 1, 2, 2)], "relu")
    assert [(item.op, item.num_output_elements) for item in workload.unpriced] == [("relu", 8)]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extract_workload(model, [torch.randn(1, 1, 2, 2)], "norm")
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_inputs_that_do_not_fit_are_explained():
    with pytest.raises(ModelError, match=r"does not run on inputs of shape \(1, 2\).*input-shape"):
        extract_workload(nn.Linear(3, 1), [torch.randn(1, 2)], "wrong")


@pytest.mark.parametrize("inputs", [[], [torch.tensor(1.0)]])
def test_inputs_without_a_batch_are_refused(inputs):
    with pytest.raises(ModelError, match="batch dimension"):
        extract_workload(nn.Linear(3, 1), inputs, "none")


def test_a_model_without_weights_is_refused():
    with pytest.raises(ModelError, match="has no weight"):
        extract_workload(nn.ReLU(), [torch.randn(1, 2)], "empty")


def test_the_fingerprint_knows_shapes_and_names_but_not_values():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert model_fingerprint(one) == model_fingerprint(other)
    assert model_fingerprint(one) != model_fingerprint(nn.Linear(2, 3))
    assert model_fingerprint(one) != model_fingerprint(nn.Sequential(one))


def test_a_weight_used_at_two_sizes_keeps_both_shapes():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.head(x).sum() + self.head(x[..., ::2, ::2]).sum() + self.head(x).sum()

    (layer,) = extract_workload(Pyramid(), torch.randn(1, 3, 8, 8), "pyramid").layers
    assert layer.positions == 64 + 16 + 64
    assert [shape.input_shape[2:] for shape in layer.uses] == [(8, 8), (8, 8), (4, 4)]


def test_a_weight_used_in_slices_is_counted_whole_and_not_pruned():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x[:, :3], x, x)

    workload = extract_workload(Crossed(), torch.randn(1, 5, 8), "crossed")
    packed = workload.layer("attention.in_proj_weight")
    assert packed.num_weights == 3 * 8 * 8
    assert packed.macs == 8 * 8 * 3 + 2 * 8 * 8 * 5
    assert not packed.prunable
