import pytest
import torch
from model_zoo import import_models
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

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


class Using(nn.Module):
    """A function of activations and of parameters."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def forward(self, x):
        return self.function(x, *self.weights)


def autocast_linear(x, w):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.linear(x, w)


def times_in_a_stack(x, w):
    return torch.bmm(x, w.expand(2, 8, 4))


# Activations are [2, 5, 8]: two samples of five tokens.
FORMS = [
    ("linear", F.linear, [(4, 8)], 5 * 32, ""),
    ("matmul", lambda x, w: x @ w.t(), [(4, 8)], 5 * 32, ""),
    ("weight on the left", lambda x, w: w @ x.mT, [(4, 8)], 5 * 32, ""),
    ("transposed copy", lambda x, w: x @ w.t().contiguous(), [(4, 8)], 5 * 32, ""),
    ("cast", lambda x, w: F.linear(x.double(), w.double()), [(4, 8)], 5 * 32, ""),
    ("autocast", autocast_linear, [(4, 8)], 5 * 32, ""),
    ("inference mode", torch.inference_mode()(F.linear), [(4, 8)], 5 * 32, ""),
    ("stored transposed", lambda x, w: x @ w, [(8, 4)], 5 * 32, "stored transposed, as [in 8"),
    ("square, transposed", lambda x, w: x @ w, [(8, 8)], 5 * 64, "stored transposed, as [in 8"),
    ("expanded", times_in_a_stack, [(8, 4)], 5 * 32, "stored transposed"),
    ("a matrix per sample", torch.bmm, [(2, 8, 4)], 5 * 32, "a stack of matrices"),
    ("baddbmm", lambda x, w: torch.baddbmm(x[..., :4], x, w), [(2, 8, 4)], 160, "a stack of"),
    ("einsum", lambda x, w: torch.einsum("bsd,hdk->bshk", x, w), [(2, 8, 4)], 320, "rearranged"),
    ("slice", lambda x, w: F.linear(x, w[:2]), [(4, 8)], 5 * 16, "use parts of it"),
    ("kernel", lambda x, w: F.linear(x, w.view(4, 8)), [(4, 8, 1, 1)], 160, "stored as 4x8x1x1"),
    ("scaled", lambda x, w, g: F.linear(x, w * g), [(4, 8), (4, 1)], 160, "computed from it"),
    ("one row", lambda x, w: torch.mv(w, x[0, 0]), [(4, 8)], 16, "not the same for each sample"),
]


@pytest.mark.parametrize(
    ("function", "shapes", "macs", "reason"),
    [f[1:] for f in FORMS],
    ids=[form[0] for form in FORMS],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_forms_in_which_a_weight_is_multiplied(function, shapes, macs, reason, device):
    model = Using(function, *shapes).to(device)
    workload = extract_workload(model, torch.randn(2, 5, 8), "form")
    (layer,) = workload.layers
    assert (layer.name, layer.macs, workload.macs) == ("weights.0", macs, macs)
    assert layer.shape.op == "linear"
    assert layer.num_weights == model.weights[0].numel()
    assert layer.prunable == (reason == "")
    assert reason in layer.not_prunable_because


def test_learned_queries_are_activations_and_the_product_with_them_counts():
    model = Using(lambda x, q, w: F.linear(q, w) @ x.mT, (3, 8), (8, 8))
    workload = extract_workload(model, torch.randn(1, 5, 8), "queries")
    (layer,) = workload.layers
    assert (layer.name, layer.macs, layer.prunable) == ("weights.1", 3 * 64, True)
    assert workload.product_macs == 3 * 8 * 5


def test_a_weight_made_of_two_is_priced_under_the_larger():
    model = Using(lambda x, a, b: F.linear(x, a @ b), (4, 3), (3, 8))
    workload = extract_workload(model, torch.randn(1, 5, 8), "factors")
    (layer,) = workload.layers
    assert (layer.name, layer.macs, layer.prunable) == ("weights.1", 5 * 32, False)
    assert workload.product_macs == 4 * 3 * 8


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.LSTM(3, 4, batch_first=True), {"weight_ih_l0": 16 * 3 * 6, "weight_hh_l0": 16 * 4 * 6}),
        (nn.GRU(3, 4, batch_first=True), {"weight_ih_l0": 12 * 3 * 6, "weight_hh_l0": 12 * 4 * 6}),
    ],
    ids=["lstm", "gru"],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_recurrent_layers_come_apart_into_products(layer, macs, device):
    found = extract_workload(layer.to(device), torch.randn(1, 6, 3), "recurrent").layers
    assert {item.name: item.macs for item in found} == macs
    assert all(item.prunable and item.positions == 6 for item in found)


@pytest.mark.parametrize(
    ("parametrize", "op"),
    [
        (nn.utils.parametrizations.weight_norm, "_weight_norm_interface"),
        (nn.utils.parametrizations.spectral_norm, "div"),
    ],
)
def test_a_parametrized_weight_is_computed_in_every_pass(parametrize, op):
    (layer,) = extract_workload(parametrize(nn.Linear(3, 4)), torch.randn(1, 3), "norm").layers
    assert (layer.macs, layer.prunable) == (12, False)
    assert op in layer.not_prunable_because


def test_a_table_tied_to_a_head_counts_the_head():
    model = Using(lambda x, w: F.linear(F.embedding(x, w), w), (9, 8))
    workload = extract_workload(model, torch.zeros(1, 5, dtype=torch.int64), "tied")
    (layer,) = workload.layers
    assert (layer.shape.op, layer.macs, layer.positions) == ("linear", 72 * 5, 5)
    assert [shape.op for shape in layer.uses] == ["linear", "embedding"]
    assert "look-up table" in layer.not_prunable_because


@pytest.mark.parametrize(
    "attend",
    [
        F.scaled_dot_product_attention,
        lambda *qkv: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*qkv)[0],
    ],
    ids=["any kernel", "the fused kernel by name"],
)
def test_both_products_of_attention_are_counted(attend):
    def attention(x, w):
        heads = F.linear(x, w).unflatten(-1, (2, 4)).transpose(1, 2)
        return attend(heads, heads, heads)

    workload = extract_workload(Using(attention, (8, 8)), torch.randn(1, 5, 8), "attention")
    assert workload.product_macs == 2 * (2 * 5 * 4 * 5)
    assert [(p.left_shape, p.right_shape, p.num_calls) for p in workload.products] == [
        ((2, 5, 4), (2, 4, 5), 1),
        ((2, 5, 5), (2, 5, 4), 1),
    ]


def test_equal_products_are_merged_and_per_sample():
    model = Using(lambda x, w: (x @ x.mT) + (x @ x.mT) + F.linear(x, w).sum(), (4, 8))
    (product,) = extract_workload(model, torch.randn(3, 5, 8), "gram").products
    assert (product.op, product.num_calls, product.macs) == ("bmm", 2, 2 * 5 * 8 * 5)


def test_a_kernel_that_is_no_parameter_is_a_product():
    model = Using(lambda x, w: F.conv1d(x @ w, torch.ones(5, 5, 3)), (8, 8))
    (product,) = extract_workload(model, torch.randn(1, 5, 8), "blur").products
    assert (product.op, product.macs) == ("convolution", 75 * 6)


def test_a_frozen_part_stays_frozen():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    model[1].eval()
    extract_workload(model, torch.randn(1, 3), "frozen")
    assert [module.training for module in model] == [True, False]


def big_llama():
    """About 155 thousand million parameters: 620 GB in float32."""
    transformers = import_models("transformers")
    return transformers.AutoModel.from_config(
        transformers.LlamaConfig(
            hidden_size=12288,
            intermediate_size=49152,
            num_hidden_layers=64,
            num_attention_heads=96,
        )
    )


@pytest.mark.parametrize(
    "shapes_only", [torch.device("meta"), FakeTensorMode()], ids=["meta", "fake"]
)
def test_a_model_too_large_for_memory(shapes_only):
    with shapes_only:
        model = big_llama()
    workload = extract_workload(model, torch.zeros(1, 64, dtype=torch.int64), "big")
    assert workload.num_parameters > 100e9
    per_layer = 4 * 12288 * 12288 + 3 * 12288 * 49152
    assert sum(layer.macs for layer in workload.layers) == 64 * 64 * per_layer
    assert workload.product_macs == 64 * 2 * 64 * 64 * 12288


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_a_traced_model_has_the_layers_of_the_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ConvTranspose2d(8, 4, 2), nn.Flatten())
    model.append(nn.Linear(64, 10))
    example = torch.randn(1, 3, 8, 8)
    plain = extract_workload(model, [example], "model")
    traced = extract_workload(torch.jit.trace(model.eval(), example), [example], "model")
    assert traced.layers == plain.layers


class Ending(nn.Linear):
    def forward(self, _):
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.LazyLinear(2), "parameter weight of mine has no shape before"),
        (Ending(3, 2), r"ends the program with SystemExit\(0\)"),
    ],
)
def test_models_that_cannot_be_watched_are_refused(model, message):
    with pytest.raises(ModelError, match=message):
        extract_workload(model, [torch.randn(1, 3)], "mine")
