import base64
import zlib
from contextlib import suppress

import numpy as np
import onnx_ir as ir
import pytest
import torch
from builders import conv_node, onnx_model
from hypothesis import given
from hypothesis import strategies as st
from networks import TinyNetwork, tiny_inputs
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from spartan_planner.errors import DocumentError, ModelError
from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.graph_skeleton import (
    graph_of_text,
    graph_text,
    initializer_names,
    layer_initializers,
)
from spartan_planner.graph_skeleton.text import GRAPH_KEY, MAX_GRAPH_BYTES
from spartan_planner.onnx_sessions import Session, open_session, random_inputs

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 3, 3, 3)).astype(np.float32)


def convolution(weight=WEIGHT, **constants) -> ModelProto:
    return onnx_model([conv_node()], {"w": weight, **constants}, {"x": (1, 3, 8, 8)}, ["y"])


def text_of(model: ModelProto, shapes=((1, 3, 8, 8),), names=None) -> str:
    return graph_text(ir.serde.deserialize_model(model), shapes, names)


def text_of_content(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def content_of(text: str) -> ModelProto:
    return ModelProto.FromString(zlib.decompress(base64.b64decode(text)))


def run(text: str):
    graph = graph_of_text(text)
    inference = open_session(graph.model.SerializeToString(), {}).inference
    return Session(inference, random_inputs(inference, graph.input_shapes)).run()


class Encoder(nn.Module):
    """Tokens through an embedding, a transformer layer and a head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 11)

    def forward(self, tokens):
        return self.head(self.layer(self.table(tokens)).mean(1))


class DeepResidual(nn.Module):
    """Forty residual blocks: activations that grew by any factor would overflow or vanish."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(40))

    def forward(self, images):
        for block in self.blocks:
            images = torch.relu(block(images))
        return images


NETWORKS = {
    "cnn": (TinyNetwork, tiny_inputs()),
    "deep": (DeepResidual, (torch.randn(1, 16, 6, 6),)),
    "transformer": (Encoder, (torch.arange(9).reshape(1, 9),)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_refilled_graph_runs_and_stays_finite(name):
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    graph = torch_to_onnx(model, inputs)
    parameters = {key: value.detach().numpy() for key, value in model.named_parameters()}
    text = graph_text(graph, [item.shape for item in inputs], initializer_names(graph, parameters))
    (output,) = run(text)
    expected = model.eval()(*inputs)
    assert output.shape == tuple(expected.shape)
    # A thousandfold growth or loss would mean that noise is scaled wrongly somewhere.
    assert 1e-3 < np.abs(output).mean() < 1e3
    names = graph_of_text(text).initializers
    assert {key for key, value in parameters.items() if value.ndim > 1} <= set(names)
    shapes = {
        tensor.name: sorted(tensor.dims) for tensor in graph_of_text(text).model.graph.initializer
    }
    assert all(shapes[names[key]] == sorted(parameters[key].shape) for key in names)


def test_weights_do_not_travel_and_the_graph_is_left_as_it_was():
    model = ir.serde.deserialize_model(convolution())
    text = graph_text(model, [(1, 3, 8, 8)])
    assert text == graph_text(model, [(1, 3, 8, 8)])
    assert WEIGHT.tobytes() not in zlib.decompress(base64.b64decode(text))
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), WEIGHT)
    other = text_of(convolution(RNG.standard_normal(WEIGHT.shape).astype(np.float32)))
    assert other == text


def test_weights_inside_constants_and_branches_do_not_travel():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["inner_w"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, WEIGHT.shape)],
        [numpy_helper.from_array(WEIGHT, "inner_w")],
    )
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("If", ["flag"], ["w2"], then_branch=inner, else_branch=inner),
        helper.make_node("Add", ["w", "w2"], ["sum"]),
        conv_node("sum"),
    ]
    model = onnx_model(nodes, {"flag": np.array(True)}, {"x": (1, 3, 8, 8)}, ["y"])
    text = text_of(model)
    assert WEIGHT.tobytes() not in zlib.decompress(base64.b64decode(text))
    assert np.isfinite(run(text)[0]).all()


def test_indices_and_shapes_stay_exact():
    indices = RNG.integers(0, 64, 200)
    nodes = [conv_node(output="c"), helper.make_node("Gather", ["c", "indices"], ["y"], axis=1)]
    model = onnx_model(nodes, {"w": WEIGHT, "indices": indices}, {"x": (1, 3, 8, 8)}, ["y"])
    kept = {item.name: item for item in content_of(text_of(model)).graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(kept["indices"]), indices)
    assert run(text_of(model))[0].shape == (1, 200, 6, 6)


@pytest.mark.parametrize("op", ["BatchNormalization", "DequantizeLinear"])
def test_scales_and_steps_are_above_zero(op):
    size = 300
    x = {"x": (1, size, 4, 4)}
    vector = RNG.standard_normal(size).astype(np.float32)
    if op == "BatchNormalization":
        names = ["scale", "bias", "mean", "var"]
        nodes = [helper.make_node(op, ["x", *names], ["y"])]
        model = onnx_model(nodes, dict.fromkeys(names, vector), x, ["y"])
    else:
        weight = RNG.integers(-127, 127, (size, size, 1, 1)).astype(np.int8)
        nodes = [helper.make_node(op, ["q", "scale"], ["w"], axis=0), conv_node()]
        model = onnx_model(nodes, {"q": weight, "scale": np.abs(vector)}, x, ["y"])
    (output,) = run(text_of(model, [(1, size, 4, 4)]))
    assert np.isfinite(output).all()
    assert output.std() > 0


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_every_type_of_weight_is_filled_in_its_type(dtype):
    nodes = [helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.FLOAT), conv_node("w32")]
    constant = WEIGHT.astype(ir.DataType[{"float64": "DOUBLE"}.get(dtype, dtype.upper())].numpy())
    model = onnx_model(nodes, {}, {"x": (1, 3, 8, 8)}, ["y"])
    kept = ir.serde.serialize_tensor(ir.tensor(constant, name="w"))
    model.graph.initializer.append(kept)
    text = text_of(model)
    assert graph_of_text(text).model.graph.initializer[0].data_type == kept.data_type
    assert np.isfinite(run(text)[0]).all()


def test_the_seed_decides_the_noise():
    text = text_of(convolution())
    first, again, other = (graph_of_text(text, seed).model for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_small_data_in_other_files_is_taken_into_the_text(tmp_path):
    scale = np.full((64, 1, 1), 2, np.float32)
    nodes = [conv_node(output="c"), helper.make_node("Mul", ["c", "scale"], ["y"])]
    model = onnx_model(nodes, {"w": WEIGHT, "scale": scale}, {"x": (1, 3, 8, 8)}, ["y"])
    path = tmp_path / "m.onnx"
    ir.save(ir.serde.deserialize_model(model), path, external_data="m.data", size_threshold_bytes=0)
    text = graph_text(ir.load(path), [(1, 3, 8, 8)])
    kept = {tensor.name: tensor for tensor in graph_of_text(text).model.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(kept["scale"]), scale)


# Names of parameters ------------------------------------------------------------------------------


def test_parameters_are_found_by_name_then_by_value_then_transposed():
    square, wide, twin = (RNG.standard_normal((8, 8)), RNG.standard_normal((4, 8)), np.ones((3, 3)))
    constants = {"kept": square + 1, "val_1": square, "val_2": wide.T.copy(), "a": twin, "b": twin}
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in constants]
    model = ir.serde.deserialize_model(
        helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [],
                [helper.make_tensor_value_info("a_out", TensorProto.DOUBLE, None)],
                [numpy_helper.from_array(array, name) for name, array in constants.items()],
            )
        )
    )
    parameters = {
        "kept": square,
        "moved": square,
        "turned": wide,
        "one": twin,
        "two": twin,
        "three": twin,
        "gone": square + 2,
        "kept_at_another_shape": np.zeros((8, 8, 1)),
    }
    assert initializer_names(model, parameters) == {
        "kept": "kept",
        "moved": "val_1",
        "turned": "val_2",
        "one": "a",
        "two": "b",
        "three": "a",
    }


def test_names_travel_with_the_graph():
    text = text_of(convolution(), names={"stem.weight": "w"})
    assert graph_of_text(text).initializers == {"stem.weight": "w"}
    assert graph_of_text(text).input_shapes == ((1, 3, 8, 8),)
    assert layer_initializers(content_of(text)) == {"stem.weight": "w"}


# Damaged and hostile texts ------------------------------------------------------------------------


def hostile(change) -> str:
    model = content_of(text_of(convolution()))
    change(model)
    return text_of_content(model.SerializeToString())


def name_other_file(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def grow(model):
    model.graph.initializer[0].dims[0] = 10**12


def negative(model):
    model.graph.initializer[0].dims[0] = -1


def no_type(model):
    model.graph.initializer[0].data_type = 99


def no_facts(model):
    del model.metadata_props[:]


def other_names(model):
    model.metadata_props[0].value = '{"input_shapes": [[1]], "initializers": {"a": "nowhere"}}'


def other_inputs(model):
    model.metadata_props[0].value = '{"input_shapes": [], "initializers": {}}'


REFUSED = [
    ("", "has no graph"),
    ("?", "is damaged"),
    ("é", "is damaged"),
    (base64.b64encode(b"no zlib").decode(), "is damaged"),
    (text_of(convolution())[:-40], "damaged|cut off"),
    (text_of_content(b"\xff" * 40), "not an ONNX graph"),
    (text_of_content(bytes(MAX_GRAPH_BYTES + 1)), "unfolds to more"),
    (hostile(name_other_file), "names other files"),
    (hostile(grow), "bytes of weights"),
    (hostile(negative), "no valid shape"),
    (hostile(no_type), "no valid shape"),
    (hostile(no_facts), f"0 entries {GRAPH_KEY}"),
    (hostile(other_names), "'nowhere'"),
    (hostile(other_inputs), "the inputs"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_damaged_and_hostile_texts_are_refused(text, message):
    with pytest.raises(DocumentError, match=message):
        graph_of_text(text)


@given(st.data())
def test_flipped_bits_give_a_graph_or_one_clear_error(data):
    content = bytearray(zlib.decompress(base64.b64decode(text_of(convolution()))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    # Any other exception fails the test.
    with suppress(DocumentError):
        graph_of_text(text_of_content(bytes(content)), max_weight_bytes=10**6)


def test_one_shape_per_input_is_needed():
    with pytest.raises(ModelError, match="1 inputs, 2 shapes"):
        text_of(convolution(), [(1, 3, 8, 8), (1,)])
