from contextlib import suppress

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from builders import conv_node, onnx_model
from hypothesis import given
from hypothesis import strategies as st
from networks import TinyNetwork
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from spartan_planner.errors import ModelError, SpartanPlannerError
from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.extraction import extract_workload
from spartan_planner.graph_skeleton import graph_of_text
from spartan_planner.onnx_sessions import Session, open_session, random_inputs
from spartan_planner.onnx_workload import weight_uses_of_onnx, workload_of_onnx

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def node(op, inputs, output="y", **attributes):
    return helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)


def write(path, nodes, constants, inputs, outputs=("y",)) -> ModelProto:
    model = onnx_model(nodes, constants, inputs, list(outputs))
    onnx.save(model, path)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.onnx"


X = (1, 8, 10, 12)
CONVOLUTIONS = [
    # What the node says, its weight and input; then the operation, its positions and, at last,
    # stride, padding, dilation and groups.
    ({"pads": [1] * 4}, (4, 8, 3, 3), X, "conv2d", 120, ((1, 1), (1, 1), (1, 1), 1)),
    ({"strides": [2, 2]}, (4, 8, 3, 3), X, "conv2d", 20, ((2, 2), (0, 0), (1, 1), 1)),
    ({"group": 8}, (16, 1, 3, 3), X, "conv2d", 80, ((1, 1), (0, 0), (1, 1), 8)),
    ({"group": 2, "dilations": [2, 2]}, (4, 4, 3, 3), X, "conv2d", 48, ((1, 1), (0, 0), (2, 2), 2)),
    ({"auto_pad": "SAME_UPPER"}, (4, 8, 3, 3), X, "conv2d", 120, ((1, 1), (1, 1), (1, 1), 1)),
    (
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        (4, 8, 3, 3),
        X,
        "conv2d",
        30,
        ((2, 2), (1, 1), (1, 1), 1),
    ),
    # Only below and to the right: a symmetric padding of one gives outputs of the same size.
    (
        {"pads": [0, 0, 1, 1], "strides": [2, 2]},
        (4, 8, 3, 3),
        X,
        "conv2d",
        30,
        ((2, 2), (1, 1), (1, 1), 1),
    ),
    ({}, (4, 8, 3), (1, 8, 10), "conv1d", 8, ((1,), (0,), (1,), 1)),
    ({}, (4, 8, 2, 2, 2), (1, 8, 3, 4, 5), "conv3d", 24, ((1,) * 3, (0,) * 3, (1,) * 3, 1)),
]


@pytest.mark.parametrize(
    ("attributes", "weight", "source", "op", "positions", "rest"), CONVOLUTIONS
)
def test_convolutions(path, attributes, weight, source, op, positions, rest):
    write(path, [conv_node(**attributes)], {"w": array(*weight)}, {"x": source})
    (layer,) = workload_of_onnx(path).layers
    shape = layer.shape
    assert (layer.name, shape.op, shape.weight_shape, shape.input_shape) == (
        "w",
        op,
        weight,
        source,
    )
    assert (shape.stride, shape.padding, shape.dilation, shape.groups) == rest
    assert layer.positions == positions
    assert layer.macs == positions * np.prod(weight)
    assert layer.prunable
    assert not shape.has_bias


def test_transposed_convolutions_are_used_at_every_input(path):
    weight, bias = array(8, 2, 4, 4), array(4)
    transposed = node("ConvTranspose", ["x", "w", "b"], strides=[2, 2], pads=[1] * 4, group=2)
    write(path, [transposed], {"w": weight, "b": bias}, {"x": X})
    (layer,) = workload_of_onnx(path).layers
    assert (layer.shape.op, layer.shape.weight_shape) == ("conv_transpose2d", (8, 2, 4, 4))
    assert (layer.positions, layer.shape.groups, layer.shape.padding) == (120, 2, (1, 1))
    assert layer.shape.has_bias


# A weight [out, in] = [5, 7] however the file stores it, applied at 11 tokens.
TOKENS = (1, 11, 7)
PRODUCTS = {
    "right": ([node("MatMul", ["x", "w"])], (7, 5), TOKENS, True),
    "behind a transpose": (
        [node("Transpose", ["w"], "t", perm=[1, 0]), node("MatMul", ["x", "t"])],
        (5, 7),
        TOKENS,
        False,
    ),
    "behind a chain": (
        [
            node("Identity", ["w"], "i"),
            node("Cast", ["i"], "c", to=TensorProto.FLOAT),
            node("Reshape", ["c", "s"], "r"),
            node("MatMul", ["x", "r"]),
        ],
        (35,),
        TOKENS,
        True,
    ),
    "left": ([node("MatMul", ["w", "x"])], (5, 7), (1, 7, 11), False),
    "gemm": ([node("Gemm", ["x", "w"])], (7, 5), (11, 7), True),
    "gemm with a transposed weight": ([node("Gemm", ["x", "w"], transB=1)], (5, 7), (11, 7), False),
    "gemm with the weight on the left": (
        [node("Gemm", ["w", "x"], transA=1, transB=1)],
        (7, 5),
        (11, 7),
        True,
    ),
    "einsum": ([node("Einsum", ["x", "w"], equation="bti,io->bto")], (7, 5), TOKENS, True),
    "einsum, outputs first": (
        [node("Einsum", ["w", "x"], equation="oi,bti->bto")],
        (5, 7),
        TOKENS,
        False,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_a_weight(path, name):
    nodes, stored, source, is_transposed = PRODUCTS[name]
    constants = {"w": array(*stored), "s": np.array([7, 5])}
    write(path, nodes, constants, {"x": source})
    workload = workload_of_onnx(path, [source])
    (layer,) = workload.layers
    assert (layer.name, layer.shape.op, layer.shape.weight_shape) == ("w", "linear", (5, 7))
    # The two-dimensional inputs are a batch, of eleven or of seven.
    batch = source[0]
    assert layer.macs == (5 * 7 * 11 if batch == 1 else 5 * 7 * 11 // batch)
    assert layer.prunable
    assert workload.unpriced == ()
    (use,) = weight_uses_of_onnx(path)
    assert use.is_stored_transposed is is_transposed


def test_a_weight_behind_a_quantization_is_priced_and_not_pruned(path):
    nodes = [node("DequantizeLinear", ["w", "scale"], "d"), node("MatMul", ["x", "d"])]
    constants = {"w": np.ones((7, 5), np.int8), "scale": np.float32(0.1)}
    write(path, nodes, constants, {"x": TOKENS})
    workload = workload_of_onnx(path)
    (layer,) = workload.layers
    assert (layer.macs, layer.shape.dtype) == (5 * 7 * 11, "int8")
    assert (layer.prunable, layer.not_prunable_because) == (False, "it is quantized")
    assert workload.num_parameters == 5 * 7 + 1


def test_integer_products_and_convolutions(path):
    def typed(name, shape, kind=TensorProto.UINT8):
        return helper.make_tensor_value_info(name, kind, shape)

    constants = {
        "w": np.ones((7, 5), np.uint8),
        "v": np.ones((6, 5), np.uint8),
        "k": np.ones((4, 3, 3, 3), np.uint8),
        "s": np.float32(1),
        "z": np.uint8(0),
    }
    nodes = [
        node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "s", "z"], "q"),
        node("Transpose", ["v"], "vt", perm=[1, 0]),
        node("MatMulInteger", ["q", "vt"], "y"),
        node("QLinearConv", ["i", "s", "z", "k", "s", "z", "s", "z"], "j"),
        node("ConvInteger", ["i", "k"], "l"),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [typed("x", (1, 11, 7)), typed("i", (1, 3, 8, 8))],
        [
            typed("y", None, TensorProto.INT32),
            typed("j", None),
            typed("l", None, TensorProto.INT32),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    workload = workload_of_onnx(path)
    macs = {layer.name: layer.macs for layer in workload.layers}
    assert macs == {"w": 7 * 5 * 11, "v": 5 * 6 * 11, "k": 2 * 108 * 36}
    assert workload.unpriced == ()


def test_bias_is_part_of_its_layer(path):
    nodes = [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"])]
    write(path, nodes, {"w": array(7, 5), "b": array(5)}, {"x": TOKENS})
    workload = workload_of_onnx(path)
    assert workload.layers[0].shape.has_bias
    assert workload.unpriced == ()
    write(path, nodes, {"w": array(7, 5), "b": array(11, 5)}, {"x": TOKENS})
    workload = workload_of_onnx(path)
    assert not workload.layers[0].shape.has_bias
    assert [(item.op, item.num_output_elements) for item in workload.unpriced] == [("Add", 55)]


def test_a_tied_table_is_one_layer_that_costs_its_products(path):
    nodes = [
        node("Gather", ["w", "ids"], "e"),
        node("Transpose", ["w"], "t", perm=[1, 0]),
        node("Relu", ["e"], "r"),
        node("MatMul", ["r", "t"]),
    ]
    table = array(50, 8)
    constants = {"w": table}
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ("batch", 9))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    for input_shapes, batch in ((None, 1), ([(3, 9)], 3)):
        (layer,) = workload_of_onnx(path, input_shapes).layers
        assert (layer.shape.op, layer.shape.weight_shape) == ("linear", (50, 8))
        assert layer.shape.input_shape == (batch, 9, 8)
        assert [shape.op for shape in layer.further_shapes] == ["embedding"]
        assert (layer.positions, layer.macs) == (9, 50 * 8 * 9)
        assert layer.not_prunable_because == "rows are looked up in it"
    nodes[2:] = [node("Relu", ["e"])]
    graph.ClearField("node")
    graph.node.extend(nodes)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    (layer,) = workload_of_onnx(path).layers
    assert (layer.shape.op, layer.shape.input_shape, layer.macs) == ("embedding", (1, 9), 0)


def test_a_weight_used_twice_and_a_weight_in_parts(path):
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("MatMul", ["a", "w"], "b"),
        helper.make_node("Split", ["packed"], ["p", "q"], axis=1, num_outputs=2),
        node("MatMul", ["b", "p"], "c"),
        node("MatMul", ["b", "q"], "d"),
        node("Mul", ["c", "d"]),
    ]
    write(path, nodes, {"w": array(7, 7), "packed": array(7, 10)}, {"x": TOKENS})
    twice, parts = workload_of_onnx(path).layers
    assert (twice.num_uses, twice.positions, twice.macs) == (2, 22, 49 * 22)
    assert parts.name == "packed"
    assert (parts.num_weights, parts.macs, parts.num_uses) == (70, 70 * 11, 2)
    assert (parts.shape.weight_shape, parts.prunable) == ((5, 7), False)


def test_one_weight_per_expert(path):
    """Four products of the experts' own slices, each on its own six tokens."""
    write(path, [node("MatMul", ["x", "w"])], {"w": array(4, 7, 5)}, {"x": (1, 4, 6, 7)})
    (layer,) = workload_of_onnx(path).layers
    assert (layer.num_uses, layer.shape.weight_shape) == (4, (5, 7))
    assert layer.macs == 4 * 6 * 7 * 5
    assert layer.num_weights == 4 * 7 * 5


def test_products_of_activations(path):
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Transpose", ["h"], "t", perm=[0, 2, 1]),
        node("MatMul", ["h", "t"], "scores"),
        node("Softmax", ["scores"], "weights"),
        node("MatMul", ["weights", "h"], "a"),
        node("Einsum", ["weights", "h"], "e", equation="bij,bjk->bik"),
        node("Add", ["a", "e"]),
    ]
    write(path, nodes, {"w": array(7, 5)}, {"x": (2, 11, 7)})
    workload = workload_of_onnx(path)
    assert [(item.op, item.left_shape, item.macs) for item in workload.products] == [
        ("MatMul", (2, 11, 5), 11 * 11 * 5),
        ("MatMul", (2, 11, 11), 11 * 11 * 5),
        ("Einsum", (2, 11, 11), 11 * 11 * 5),
    ]
    assert [(item.op, item.num_calls) for item in workload.unpriced] == [("Add", 1), ("Softmax", 1)]
    assert workload.macs == 5 * 7 * 11 + 3 * 11 * 11 * 5


@pytest.mark.parametrize("rank", [3, 4])
def test_attention_is_two_products(path, rank):
    """Six query heads over two key heads of size 8, ten queries and twelve keys."""
    shapes = {"q": (1, 6, 10, 8), "k": (1, 2, 12, 8), "v": (1, 2, 12, 4)}
    attributes = {}
    if rank == 3:
        shapes = {"q": (1, 10, 48), "k": (1, 12, 16), "v": (1, 12, 8)}
        attributes = {"q_num_heads": 6, "kv_num_heads": 2}
    nodes = [
        node("Attention", ["q", "k", "v"], "a", **attributes),
        node("MatMul", ["o", "w"], "y"),
    ]
    inputs = {**shapes, "o": (1, 7)}
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("a", "y")],
        [numpy_helper.from_array(array(7, 5), "w")],
    )
    opset = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    scores, mixed = workload_of_onnx(path).products
    assert scores.macs == 6 * 10 * 12 * 8
    assert mixed.macs == 6 * 10 * 12 * 4


def test_what_cannot_be_priced_is_listed_and_what_is_known_before_is_not(path):
    nodes = [
        conv_node(output="c"),
        # The kernel depends on the input: no weight.
        node("Conv", ["c", "dynamic"], "d"),
        node("Shape", ["c"], "sizes"),
        node("Gather", ["sizes", "zero"], "size", axis=0),
        node("Mul", ["size", "zero"], "nothing"),
        node("Mul", ["w", "w"], "square"),
        node("Relu", ["d"], "r"),
        node("LSTM", ["x2", "lstm_w", "lstm_r"], "l", hidden_size=3),
    ]
    constants = {
        "w": array(4, 8, 3, 3),
        "zero": np.array([0]),
        "lstm_w": array(1, 12, 5),
        "lstm_r": array(1, 12, 3),
    }
    inputs = {"x": X, "dynamic": (4, 4, 1, 1), "x2": (2, 1, 5)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [
            helper.make_tensor_value_info("nothing", TensorProto.INT64, None),
            *(
                helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
                for n in ("r", "square", "l")
            ),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    found = [(i.op, i.num_calls, i.num_output_elements) for i in workload_of_onnx(path).unpriced]
    assert found == [("Conv", 1, 320), ("Relu", 1, 320)]


def test_constants_count_as_weights(path):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(array(20, 30)))
    write(path, [constant, node("MatMul", ["x", "w"])], {}, {"x": (1, 20)})
    workload = workload_of_onnx(path)
    assert [layer.name for layer in workload.layers] == ["w"]
    assert workload.num_parameters == 600
    assert graph_of_text(workload.graph).initializers == {"w": "w"}


def test_functions_are_looked_into(path):
    function = helper.make_function(
        "mine",
        "Dense",
        ["a", "b"],
        ["c"],
        [node("MatMul", ["a", "b"], "c")],
        [helper.make_opsetid("", 20)],
    )
    call = helper.make_node("Dense", ["x", "w"], ["y"], domain="mine")
    graph = helper.make_graph(
        [call],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, TOKENS)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array(7, 5), "w")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function]), path
    )
    assert workload_of_onnx(path).macs == 5 * 7 * 11


def test_shapes_that_the_graph_computes_are_observed(path):
    """Which elements are not zero is known to no inference; the graph's own sizes are."""
    nodes = [
        node("NonZero", ["mask"], "where"),
        node("Squeeze", ["where", "zero"], "rows"),
        node("Gather", ["x", "rows"], "kept", axis=0),
        node("MatMul", ["kept", "w"]),
    ]
    constants = {"w": array(7, 5), "mask": np.array([1, 0, 1], np.float32), "zero": np.array([0])}
    write(path, nodes, constants, {"x": (4, 7)})
    (layer,) = workload_of_onnx(path).layers
    assert layer.shape.input_shape == (2, 7)


# The same networks seen by torch ------------------------------------------------------------------


class Depthwise(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.Conv2d(16, 8, 1),
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
        )


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 11)

    def forward(self, tokens):
        return self.head(self.layer(self.table(tokens)).mean(1))


NETWORKS = {
    "cnn": (TinyNetwork, (torch.randn(1, 1, 8, 8),)),
    "depthwise": (Depthwise, (torch.randn(1, 3, 16, 16),)),
    "transformer": (Encoder, (torch.arange(9).reshape(1, 9),)),
}


def randomized(build):
    """Parameters without equal ones, zeros and ones: an exporter merges or drops those."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    build, inputs = NETWORKS[request.param]
    model = randomized(build)
    path = tmp_path_factory.mktemp(request.param) / "m.onnx"
    ir.save(torch_to_onnx(model, inputs), path)
    return path, model, inputs


def test_the_exported_network_has_the_workload_of_the_torch_network(exported):
    path, model, inputs = exported
    ours, theirs = workload_of_onnx(path), extract_workload(model, inputs, "torch")
    kinds = [
        sorted(
            (
                layer.shape.op,
                layer.shape.weight_shape,
                layer.shape.groups,
                layer.positions,
                layer.macs,
            )
            for layer in workload.layers
        )
        for workload in (ours, theirs)
    ]
    assert kinds[0] == kinds[1]
    # A folded batch normalization leaves a bias in the place of its scale and shift.
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    folded = sum(norm.num_features for norm in norms)
    scalars = sum(
        int(np.prod(tensor.dims)) == 1 and tensor.data_type == TensorProto.FLOAT
        for tensor in onnx.load(path).graph.initializer
    )
    assert ours.num_parameters - scalars == theirs.num_parameters - folded


def test_the_graph_of_the_workload_runs(exported):
    path, model, inputs = exported
    workload = workload_of_onnx(path)
    graph = graph_of_text(workload.graph)
    inference = open_session(graph.model.SerializeToString(), {}).inference
    (output,) = Session(inference, random_inputs(inference, graph.input_shapes)).run()
    assert output.shape == tuple(model.eval()(*inputs).shape)
    assert np.isfinite(output).all()
    assert set(graph.initializers) == {layer.name for layer in workload.layers}


def test_the_fingerprint_is_of_names_and_shapes(path):
    def fingerprint(constants, **options):
        write(path, [node("MatMul", ["x", "w"])], constants, {"x": (1, 7)}, **options)
        return workload_of_onnx(path).fingerprint

    first = fingerprint({"w": array(7, 5)})
    assert fingerprint({"w": array(7, 5)}) == first
    assert fingerprint({"w": array(7, 6)}) != first


# Input shapes -------------------------------------------------------------------------------------


def open_model(path, *sizes):
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array(7, 5), "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def test_an_open_batch_is_one_and_other_open_sizes_are_asked_for(path):
    open_model(path, "batch", 11, 7)
    assert workload_of_onnx(path).layers[0].shape.input_shape == (1, 11, 7)
    assert workload_of_onnx(path, [(3, 11, 7)]).layers[0].shape.input_shape == (3, 11, 7)
    open_model(path, "batch", "tokens", 7)
    assert workload_of_onnx(path, [(1, 13, 7)]).layers[0].positions == 13
    with pytest.raises(ModelError, match=r"has open dimensions .* inspect FILE.onnx --input-shape"):
        workload_of_onnx(path)


@pytest.mark.parametrize("shapes", [[], [(1, 11, 7), (1,)], [(1, 12, 7)], [(11, 7)], [(0, 11, 7)]])
def test_shapes_that_do_not_fit_are_refused(path, shapes):
    open_model(path, "batch", 11, 7)
    with pytest.raises(ModelError, match=r"shapes were given|takes \(any, 11, 7\)"):
        workload_of_onnx(path, shapes)


# Files --------------------------------------------------------------------------------------------


def test_weights_in_other_files_are_not_read(path):
    model = write(path, [node("MatMul", ["x", "w"])], {"w": array(20, 30)}, {"x": (1, 20)})
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    expected = workload_of_onnx(path)
    (path.parent / "w.data").unlink()
    assert workload_of_onnx(path) == expected
    assert expected.macs == 600


def test_small_data_in_other_files_is_read_from_the_folder_of_the_model_only(path):
    nodes = [node("Reshape", ["x", "target"], "r"), node("MatMul", ["r", "w"])]
    constants = {"w": array(20, 30), "target": np.array([3, 20])}
    model = write(path, nodes, constants, {"x": (60,)})
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    assert workload_of_onnx(path).layers[0].shape.input_shape == (3, 20)
    outside = path.parent.parent / "outside.data"
    outside.write_bytes((path.parent / "w.data").read_bytes())
    for place in ("../outside.data", str(outside), "missing.data"):
        wicked = onnx.load(path, load_external_data=False)
        for tensor in wicked.graph.initializer:
            tensor.external_data[0].value = place
        path.write_bytes(wicked.SerializeToString())
        with pytest.raises(ModelError, match=r"'target' of .* cannot be read"):
            workload_of_onnx(path)


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x00" * 64, b"\x08\x0a"])
def test_files_that_are_no_models(path, content):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        workload_of_onnx(path)


def test_folders_and_enormous_files_are_refused(tmp_path, path):
    with pytest.raises(ModelError, match="cannot be read"):
        workload_of_onnx(tmp_path)
    with path.open("wb") as stream:
        stream.truncate(2**31)
    with pytest.raises(ModelError, match="external data"):
        workload_of_onnx(path)


def test_a_model_without_weights_is_refused(path):
    write(path, [node("Relu", ["x"])], {}, {"x": X})
    with pytest.raises(ModelError, match="no weight"):
        workload_of_onnx(path)


CONTRADICTIONS = {
    "channels": ([conv_node()], X, (4, 9, 3, 3)),
    "transposed channels": ([node("ConvTranspose", ["x", "w"])], X, (9, 4, 3, 3)),
    "inner sizes": ([node("MatMul", ["x", "w"])], TOKENS, (8, 5)),
    "inner sizes of gemm": ([node("Gemm", ["x", "w"])], (11, 7), (8, 5)),
    "letters": ([node("Einsum", ["x", "w"], equation="bti,io->bto")], TOKENS, (8, 5)),
    "batches": ([node("MatMul", ["x", "w"])], (3, 11, 7), (2, 7, 5)),
    "kernel too large": ([conv_node()], X, (4, 8, 13, 13)),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_shapes_that_contradict_each_other_are_one_quiet_sentence(path, capfd, name):
    nodes, source, weight = CONTRADICTIONS[name]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, source)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array(*weight), "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    with pytest.raises(ModelError) as caught:
        workload_of_onnx(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def content():
    nodes = [
        conv_node(output="c", pads=[1] * 4, strides=[2, 2]),
        node("Reshape", ["c", "target"], "r"),
        node("Transpose", ["m"], "t", perm=[1, 0]),
        node("MatMul", ["r", "t"], "a"),
        node("Einsum", ["a", "a"], "y", equation="bi,bj->bij"),
    ]
    constants = {"w": array(4, 8, 3, 3), "m": array(5, 30), "target": np.array([4, 30])}
    return onnx_model(nodes, constants, {"x": X}, ["y"]).SerializeToString()


@given(st.data())
def test_damaged_files_give_a_workload_or_one_clear_error(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(content)))])
    # Any other exception fails the test.
    with suppress(SpartanPlannerError):
        workload_of_onnx(path)


def test_work_of_one_sample_only_is_counted_as_torch_extraction_counts_it(path):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) + self.b(x[:1])

    nodes = [
        node("MatMul", ["x", "a"], "left"),
        node("Slice", ["x", "zero", "one"], "first"),
        node("MatMul", ["first", "b"], "right"),
        node("Add", ["left", "right"]),
    ]
    ends = {"zero": np.array([0]), "one": np.array([1])}
    write(path, nodes, {"a": array(8, 8), "b": array(8, 8), **ends}, {"x": (4, 8)})
    every, first = workload_of_onnx(path).layers
    assert (every.macs, every.sliced, every.prunable) == (64, None, True)
    _, expected = extract_workload(First(), [torch.randn(4, 8)], "first").layers
    assert first.macs == expected.macs == 16
    assert first.sliced == expected.sliced
    assert first.not_prunable_because == expected.not_prunable_because


def test_a_kernel_computed_from_constants_is_priced_and_not_prunable(path):
    nodes = [node("Mul", ["v", "g"], "w"), conv_node()]
    constants = {"v": array(4, 8, 3, 3), "g": array(4, 1, 1, 1)}
    write(path, nodes, constants, {"x": (1, 8, 5, 5)})
    workload = workload_of_onnx(path)
    (layer,) = workload.layers
    assert (layer.name, layer.positions, layer.macs) == ("v", 9, 4 * 8 * 9 * 9)
    assert layer.not_prunable_because == "the weight in use is computed from it in every run"
    assert not layer.prunable
    assert not workload.unpriced


def test_a_kernel_that_an_input_decides_is_no_layer(path):
    nodes = [node("Mul", ["v", "g"], "w"), conv_node(), node("MatMul", ["y", "m"], "z")]
    constants = {"v": array(4, 8, 3, 3), "m": array(3, 2)}
    inputs = {"x": (1, 8, 5, 5), "g": (4, 1, 1, 1)}
    write(path, nodes, constants, inputs, ("z",))
    assert [layer.name for layer in workload_of_onnx(path).layers] == ["m"]


@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_weights_are_linear_layers(path, op, gates, direction):
    length, inputs, hidden = 6, 8, 16
    ways = 1 if direction == "forward" else 2
    constants = {
        "w": array(ways, gates * hidden, inputs),
        "r": array(ways, gates * hidden, hidden),
    }
    recurrent = node(op, ["x", "w", "r"], hidden_size=hidden, direction=direction, layout=1)
    write(path, [recurrent], constants, {"x": (2, length, inputs)})
    first, second = workload_of_onnx(path).layers
    assert (first.name, first.shape.weight_shape) == ("w", (gates * hidden, inputs))
    assert (second.name, second.shape.weight_shape) == ("r", (gates * hidden, hidden))
    assert (first.num_uses, second.num_uses) == (ways, ways * length)
    assert first.macs == length * constants["w"].size
    assert second.macs == length * constants["r"].size
    assert not first.prunable
    assert "recurrent" in second.not_prunable_because


def gates_reordered(source, result):
    """What torch's exporter writes for a weight of four gates, of the first of two directions."""
    cuts = [
        node("Slice", [source, f"c{start}", f"c{start + 1}", "c0"], f"{result}_{start}")
        for start in range(4)
    ]
    order = [f"{result}_{place}" for place in (0, 3, 1, 2)]
    return [
        *cuts,
        node("Concat", order, f"{result}_m", axis=0),
        node("Unsqueeze", [f"{result}_m", "c0"], result),
    ]


def test_recurrent_weights_joined_from_slices_are_a_layer_each(path):
    hidden, inputs, length = 4, 8, 6
    bounds = {f"c{place}": np.array([place * hidden]) for place in range(5)}
    constants = {
        **bounds,
        "w": array(2, 4 * hidden, inputs),
        "forth": array(4 * hidden, hidden),
        "back": array(4 * hidden, hidden),
    }
    nodes = [
        *gates_reordered("forth", "f"),
        *gates_reordered("back", "b"),
        node("Concat", ["f", "b"], "r", axis=0),
        node("LSTM", ["x", "w", "r"], hidden_size=hidden, direction="bidirectional", layout=1),
    ]
    write(path, nodes, constants, {"x": (1, length, inputs)})
    workload = workload_of_onnx(path)
    assert [layer.name for layer in workload.layers] == ["w", "forth", "back"]
    assert [layer.macs for layer in workload.layers] == [
        length * constants[name].size for name in ("w", "forth", "back")
    ]
    assert workload.layers[1].shape.weight_shape == (4 * hidden, hidden)
    assert not workload.unpriced


RECURRENT_WEIGHTS = {
    # How the hidden state's weight [1, 16, 4] comes about; names of layers; products besides.
    "one per gate": (
        [node("Concat", ["i", "o", "f", "c"], "m", axis=0), node("Unsqueeze", ["m", "zero"], "r")],
        {name: array(4, 4) for name in "iofc"},
        ["w", "i", "o", "f", "c"],
        0,
    ),
    "split along the inputs": (
        [node("Concat", ["left", "right"], "r", axis=2)],
        {"left": array(1, 16, 3), "right": array(1, 16, 1)},
        ["w", "left"],
        0,
    ),
    "computed in every run": (
        [node("Mul", ["v", "g"], "r")],
        {"v": array(1, 16, 4), "g": array(16, 1)},
        ["w", "v"],
        0,
    ),
    "decided by an input": ([node("Mul", ["r0", "h"], "r")], {"r0": array(1, 16, 4)}, ["w"], 1),
}


@pytest.mark.parametrize("name", RECURRENT_WEIGHTS)
def test_nothing_of_a_recurrent_operation_is_hidden(path, name):
    nodes, weights, layers, num_products = RECURRENT_WEIGHTS[name]
    length, inputs = 6, 8
    constants = {"w": array(1, 16, inputs), "zero": np.array([0]), **weights}
    values = {"x": (1, length, inputs)} | ({"h": (16, 1)} if num_products else {})
    recurrent = node("LSTM", ["x", "w", "r"], hidden_size=4, layout=1)
    write(path, [*nodes, recurrent], constants, values)
    workload = workload_of_onnx(path)
    assert [layer.name for layer in workload.layers] == layers
    assert len(workload.products) == num_products
    assert workload.macs == length * 16 * (inputs + 4)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.core = kind(8, 12, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.core(x)[0]


# nn.RNN is exported step by step, and what its first steps make of a state of zeros is known before
# the model runs: one product for each of two layers and directions.
@pytest.mark.parametrize(
    ("kind", "known_macs"), [(nn.LSTM, 0), (nn.GRU, 0), (nn.RNN, 2 * 2 * 12 * 12)]
)
def test_exported_recurrent_layers_have_the_work_of_torchs(path, kind, known_macs):
    model, inputs = randomized(lambda: Recurrent(kind)), (torch.randn(1, 5, 8),)
    ir.save(torch_to_onnx(model, inputs), path)
    ours, theirs = workload_of_onnx(path), extract_workload(model, inputs, "torch")
    assert ours.macs == theirs.macs - known_macs
    figures = [sum(layer.num_weights for layer in workload.layers) for workload in (ours, theirs)]
    assert figures[0] == figures[1]
    assert all(layer.name.startswith("core.") for layer in ours.layers)
    assert kind.__name__ not in [item.op for item in ours.unpriced]
    refilled = graph_of_text(ours.graph)
    assert set(refilled.initializers) <= {layer.name for layer in ours.layers}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(8, 16, bias=False)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.loose = nn.Parameter(torch.zeros(16, 6))

    def forward(self, x):
        x = self.plain(x)
        return self.attention(x, x, x, need_weights=False)[0] @ self.loose


def test_layers_are_named_after_parameters_that_the_exporter_renamed(path):
    model, inputs = randomized(Named), (torch.randn(1, 5, 8),)
    ir.save(torch_to_onnx(model, inputs), path)
    initializers = {tensor.name for tensor in onnx.load(path).graph.initializer}
    names = {layer.name for layer in workload_of_onnx(path).layers}
    assert names == {name for name, item in model.named_parameters() if item.dim() > 1}
    assert not names <= initializers
    assert {use.layer for use in weight_uses_of_onnx(path)} == names


SCOPES = {
    # Scope that the exporter noted, names of further initializers; then the layer's name.
    "told by the bias": ("['', 'enc', 'linear']", {"x.out_bias": array(4)}, "enc.out_weight"),
    "module only": ("['', 'enc', 'linear']", {"c": array(4)}, "enc.val_7"),
    "no module": ("['', 'linear']", {"x.bias": array(4)}, "val_7"),
    "no text": ("]]", {"x.bias": array(4)}, "val_7"),
    "taken": (
        "['', 'enc', 'linear']",
        {"x.bias": array(4), "enc.weight": array(4)},
        "val_7",
    ),
}


@pytest.mark.parametrize("case", SCOPES)
def test_names_of_layers_by_what_the_exporter_noted(path, case):
    scope, further, name = SCOPES[case]
    nodes = [node("MatMul", ["x", "val_7"], "m"), node("Add", ["m", next(iter(further))])]
    model = onnx_model(nodes, {"val_7": array(8, 4), **further}, {"x": (3, 8)}, ["y"])
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scope)
    onnx.save(model, path)
    assert [layer.name for layer in workload_of_onnx(path).layers] == [name]


def test_the_older_exporters_names_of_nodes_tell_the_module(path):
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_9"], ["m"], name="/enc/layers.0/fc/MatMul"),
        helper.make_node("Add", ["enc.layers.0.fc.bias", "m"], ["y"], name="/enc/layers.0/fc/Add"),
    ]
    constants = {"onnx::MatMul_9": array(8, 4), "enc.layers.0.fc.bias": array(4)}
    write(path, nodes, constants, {"x": (3, 8)})
    assert [layer.name for layer in workload_of_onnx(path).layers] == ["enc.layers.0.fc.weight"]
