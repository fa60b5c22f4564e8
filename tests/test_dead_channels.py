"""Channels that are dead between layers: gone from all layers and all that stands between."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from builders import conv_node, onnx_model
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering_checks import lowered, require_equal
from onnx import helper, numpy_helper

node = helper.make_node

SIDE = 6
IMAGE = (2, 8, SIDE, SIDE)
HALF = range(0, 32, 2)


def weight(*shape, seed=0, outputs=(), inputs=()) -> np.ndarray:
    """A random weight ``[out, in, *kernel]``, zero at these outputs and inputs."""
    random = np.random.default_rng(seed)
    found = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
    found[list(outputs)] = 0
    found[:, list(inputs)] = 0
    return found


def ramp(length: int) -> np.ndarray:
    return np.linspace(-1, 1, length, dtype=np.float32)


def ints(*figures: int) -> np.ndarray:
    return np.array(figures, np.int64)


@dataclass(frozen=True)
class Case:
    """A graph, and the shapes that its constants have afterwards where they shrink."""

    nodes: list
    constants: dict
    after: dict = field(default_factory=dict)
    ops: tuple | None = None
    shape: tuple = IMAGE


FIRST, SECOND = weight(32, 8, 1, 1, outputs=HALF), weight(32, 8, 1, 1, seed=1)
SHUFFLE = [
    node("Reshape", ["h", "apart"], ["s1"], allowzero=1),
    node("Transpose", ["s1"], ["s2"], perm=[0, 2, 1, 3, 4]),
    node("Reshape", ["s2", "back"], ["s3"]),
]
SHUFFLE_SHAPES = {"apart": ints(-1, 4, 8, SIDE, SIDE), "back": ints(-1, 32, SIDE, SIDE)}

CASES = {
    "concatenation: constant in one part, unread in the other": Case(
        [
            conv_node("w1", "x", "h1"),
            conv_node("w2", "x", "h2"),
            node("Concat", ["h1", "h2"], ["h"], axis=1),
            conv_node("w3", "h", "y"),
        ],
        {"w1": FIRST, "w2": SECOND, "w3": weight(5, 64, 3, 3, inputs=range(60, 64))},
        {"w1": (16, 8, 1, 1), "w2": (28, 8, 1, 1), "w3": (5, 44, 3, 3)},
        ("Conv", "Conv", "Concat", "Conv"),
    ),
    "concatenation with what no layer wrote": Case(
        [
            conv_node("w1", "x", "h1"),
            node("Concat", ["x", "h1"], ["h"], axis=-3),
            conv_node("w3", "h", "y"),
        ],
        {"w1": FIRST, "w3": weight(5, 40, 3, 3, inputs=range(4))},
        {"w1": (16, 8, 1, 1), "w3": (5, 24, 3, 3)},
    ),
    "concatenation with itself is left alone": Case(
        [
            conv_node("w1", "x", "h1"),
            node("Concat", ["h1", "h1"], ["h"], axis=1),
            conv_node("w3", "h", "y"),
        ],
        {"w1": FIRST, "w3": weight(5, 64, 1, 1)},
    ),
    "concatenation along the rows is left alone": Case(
        [
            conv_node("w1", "x", "h1"),
            node("Concat", ["h1", "h1"], ["h"], axis=2),
            conv_node("w3", "h", "y"),
        ],
        {"w1": FIRST, "w3": weight(5, 32, 1, 1)},
    ),
    "split, sizes given": Case(
        [
            conv_node("w1", "x", "h"),
            node("Split", ["h", "sizes"], ["h1", "h2"], axis=1),
            conv_node("w2", "h1", "y1"),
            conv_node("w3", "h2", "y2"),
            node("Add", ["y1", "y2"], ["y"]),
        ],
        {
            "w1": FIRST,
            "sizes": ints(12, 20),
            "w2": weight(5, 12, 1, 1, inputs=[1]),
            "w3": weight(5, 20, 1, 1, seed=1, inputs=[1, 3, 5]),
        },
        {"w1": (12, 8, 1, 1), "w2": (5, 5, 1, 1), "w3": (5, 7, 1, 1), "sizes": (2,)},
    ),
    "split into equal parts": Case(
        [
            conv_node("w1", "x", "h"),
            node("Split", ["h"], ["h1", "h2"], axis=1, num_outputs=2),
            conv_node("w2", "h1", "y1"),
            conv_node("w3", "h2", "y2"),
            node("Add", ["y1", "y2"], ["y"]),
        ],
        {
            "w1": weight(32, 8, 1, 1, outputs=range(10)),
            "w2": weight(5, 16, 1, 1),
            "w3": weight(5, 16, 1, 1, seed=1),
        },
        {"w1": (22, 8, 1, 1), "w2": (5, 6, 1, 1)},
    ),
    "half of a split goes on past the layer": Case(
        [
            conv_node("w1", "x", "h"),
            node("Split", ["h"], ["h1", "h2"], axis=1, num_outputs=2),
            conv_node("w2", "h1", "h3"),
            node("Concat", ["h3", "h2"], ["h4"], axis=1),
            conv_node("w3", "h4", "y"),
        ],
        {
            "w1": weight(32, 8, 1, 1, outputs=[0, 1, 16, 17, 18]),
            "w2": weight(16, 16, 1, 1, outputs=[15]),
            "w3": weight(5, 32, 1, 1, inputs=[0, 1, 31]),
        },
        {"w1": (26, 8, 1, 1), "w2": (13, 14, 1, 1), "w3": (5, 25, 1, 1)},
    ),
    "channel shuffle": Case(
        [conv_node("w1", "x", "h"), *SHUFFLE, conv_node("w2", "s3", "y")],
        {"w1": FIRST, "w2": weight(5, 32, 1, 1, seed=1, inputs=[4]), **SHUFFLE_SHAPES},
        {"w1": (15, 8, 1, 1), "w2": (5, 15, 1, 1)},
        ("Conv", "Gather", "Conv"),
    ),
    "two channel shuffles": Case(
        [
            conv_node("w1", "x", "h"),
            *SHUFFLE,
            node("Reshape", ["s3", "apart2"], ["t1"]),
            node("Transpose", ["t1"], ["t2"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["t2", "back"], ["t3"]),
            conv_node("w2", "t3", "y"),
        ],
        {
            "w1": FIRST,
            "w2": weight(5, 32, 1, 1, seed=1),
            **SHUFFLE_SHAPES,
            "apart2": ints(-1, 2, 16, SIDE, SIDE),
        },
        {"w1": (16, 8, 1, 1), "w2": (5, 16, 1, 1)},
        ("Conv", "Gather", "Gather", "Conv"),
    ),
    "channel shuffle with nothing to remove stays": Case(
        [conv_node("w1", "x", "h"), *SHUFFLE, conv_node("w2", "s3", "y")],
        {"w1": SECOND, "w2": weight(5, 32, 1, 1, seed=1), **SHUFFLE_SHAPES},
        {},
        ("Conv", "Reshape", "Transpose", "Reshape", "Conv"),
    ),
    "flattening with several places": Case(
        [
            conv_node("w1", "x", "h1"),
            node("Relu", ["h1"], ["h2"]),
            node("MaxPool", ["h2"], ["h3"], kernel_shape=[3, 3], strides=[3, 3]),
            node("Flatten", ["h3"], ["h4"]),
            node("Gemm", ["h4", "w2", "b2"], ["y"], transB=1),
        ],
        {
            "w1": FIRST,
            "w2": weight(10, 128, seed=1, inputs=range(4, 8)),
            "b2": ramp(10),
        },
        {"w1": (15, 8, 1, 1), "w2": (10, 60)},
    ),
    "reshape to a stated width": Case(
        [
            conv_node("w1", "x", "h1", "b1"),
            node("Reshape", ["h1", "flat"], ["h2"], allowzero=1),
            node("MatMul", ["h2", "w2"], ["y"]),
        ],
        {
            "w1": FIRST,
            "b1": ramp(32),
            "flat": ints(-1, 32 * SIDE * SIDE),
            "w2": weight(10, 32 * SIDE * SIDE, seed=1).T,
        },
        {"w1": (16, 8, 1, 1), "b1": (16,), "w2": (16 * SIDE * SIDE, 10)},
    ),
    "squeeze and excitation": Case(
        [
            conv_node("w1", "x", "h1"),
            node("Relu", ["h1"], ["h2"]),
            node("GlobalAveragePool", ["h2"], ["s1"]),
            conv_node("v1", "s1", "s2"),
            node("Relu", ["s2"], ["s3"]),
            conv_node("v2", "s3", "s4", "c2"),
            node("Sigmoid", ["s4"], ["s5"]),
            node("Mul", ["s5", "h2"], ["h3"]),
            conv_node("w2", "h3", "y", pads=[1, 1, 1, 1]),
        ],
        {
            "w1": FIRST,
            "v1": weight(4, 32, 1, 1),
            "v2": weight(32, 4, 1, 1),
            "c2": ramp(32),
            "w2": weight(5, 32, 3, 3),
        },
        {"w1": (16, 8, 1, 1), "v1": (4, 16, 1, 1), "v2": (16, 4, 1, 1), "w2": (5, 16, 3, 3)},
    ),
    "normalisation of scale zero": Case(
        [
            conv_node("w1", "x", "h1"),
            node("BatchNormalization", ["h1", "s", "b", "mean", "var"], ["h2"]),
            node("Relu", ["h2"], ["h3"]),
            conv_node("w2", "h3", "y"),
        ],
        {
            "w1": SECOND,
            "s": np.where(np.arange(32) % 2, ramp(32), 0).astype(np.float32),
            "b": ramp(32)[::-1],
            "mean": ramp(32),
            "var": ramp(32) + 2,
            "w2": weight(5, 32, 3, 3, seed=2),
        },
        {
            "w1": (16, 8, 1, 1),
            "w2": (5, 16, 3, 3),
            **dict.fromkeys(("s", "b", "mean", "var"), (16,)),
        },
    ),
    "depthwise filters of zeros, padded behind": Case(
        [
            conv_node("w1", "x", "h1", "b1"),
            conv_node("d", "h1", "h2", "db", group=32, pads=[1, 1, 1, 1]),
            conv_node("w2", "h2", "y", pads=[1, 1, 1, 1]),
        ],
        {
            "w1": SECOND,
            "b1": ramp(32),
            "d": weight(32, 1, 3, 3, outputs=HALF),
            "db": ramp(32),
            "w2": weight(5, 32, 3, 3, seed=2),
        },
        # One constant channel stays, for the border.
        {"w1": (17, 8, 1, 1), "d": (17, 1, 3, 3), "db": (17,), "w2": (5, 17, 3, 3)},
    ),
    "addition of two constants; one alone is none": Case(
        [
            conv_node("w1", "x", "h1"),
            conv_node("w2", "x", "h2"),
            node("Add", ["h1", "h2"], ["h"]),
            conv_node("w3", "h", "y"),
        ],
        {
            "w1": FIRST,
            "w2": weight(32, 8, 1, 1, seed=1, outputs=range(4)),
            "w3": weight(5, 32, 1, 1),
        },
        {"w1": (30, 8, 1, 1), "w2": (30, 8, 1, 1), "w3": (5, 30, 1, 1)},
    ),
    "padded average of a constant is none": Case(
        [
            conv_node("w1", "x", "h1", "b1"),
            node(
                "AveragePool",
                ["h1"],
                ["h2"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                count_include_pad=1,
            ),
            conv_node("w2", "h2", "y"),
        ],
        {"w1": FIRST, "b1": ramp(32), "w2": weight(5, 32, 1, 1)},
    ),
    "layer normalisation mixes channels": Case(
        [
            node("MatMul", ["x", "w1"], ["h1"]),
            node("LayerNormalization", ["h1", "s", "b"], ["h2"]),
            node("MatMul", ["h2", "w2"], ["y"]),
        ],
        {
            "w1": weight(32, SIDE, outputs=HALF).T,
            "s": ramp(32),
            "b": ramp(32),
            "w2": weight(5, 32, inputs=range(8)).T,
        },
    ),
    "channels that leave the graph pin those that they share": Case(
        [
            conv_node("w1", "x", "h1"),
            conv_node("w2", "h1", "h2"),
            node("Concat", ["h1", "h2"], ["y"], axis=1),
        ],
        {"w1": FIRST, "w2": weight(4, 32, 1, 1)},
    ),
    "a layer that nobody needs keeps one channel": Case(
        [
            conv_node("w1", "x", "h1"),
            conv_node("w2", "x", "h2"),
            node("Concat", ["h1", "h2"], ["h"], axis=1),
            conv_node("w3", "h", "y"),
        ],
        {"w1": FIRST * 0, "w2": SECOND, "w3": weight(5, 64, 1, 1)},
        {"w1": (1, 8, 1, 1), "w3": (5, 33, 1, 1)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_and_outputs(case):
    model = onnx_model(case.nodes, case.constants, {"x": case.shape}, ["y"])
    after, report = lowered(model)
    require_equal(model, after, case.shape)
    shapes = {item.name: tuple(item.dims) for item in after.graph.initializer}
    expected = {
        name: case.after.get(name, case.constants[name].shape)
        for name in case.constants
        if name in shapes
    }
    assert {name: shapes[name] for name in expected} == expected
    assert bool(report.removed.num_channels) is bool(case.after)
    if case.ops is not None:
        assert tuple(item.op_type for item in after.graph.node) == case.ops


class RandomGraph:
    """Draws a graph of images, any of whose layers may have dead outputs and unread inputs."""

    def __init__(self, seed: int, num_steps: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}
        self.widths = {"x": IMAGE[1]}
        for _ in range(num_steps):
            step = self.random.choice(self.STEPS)
            getattr(self, f"add_{step}")(self.pick())
        parts = [name for name in self.widths if not self.is_read(name)]
        last = self.write("Concat", parts, sum(self.widths[name] for name in parts), axis=1)
        if self.random.random() < 0.5:
            self.add_layer(last, name="y")
            return
        self.nodes.append(node("Flatten", [last], ["flat"]))
        inputs = self.widths[last] * SIDE * SIDE
        self.constants["head"] = self.holed(3, inputs, inputs=SIDE * SIDE)
        self.nodes.append(node("Gemm", ["flat", "head"], ["y"], transB=1))

    STEPS = (
        *("layer", "layer", "layer", "activation", "normalisation", "depthwise", "pooling"),
        *("addition", "concatenation", "split", "shuffle", "excitation"),
    )

    def pick(self) -> str:
        return str(self.random.choice(list(self.widths)))

    def is_read(self, name: str) -> bool:
        return any(name in item.input for item in self.nodes)

    def write(self, op: str, inputs, width: int, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [name], **attributes))
        self.widths[name] = width
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def holed(self, *shape: int, inputs: int = 1) -> np.ndarray:
        """A weight with dead outputs, and unread inputs in runs."""
        found = weight(*shape, seed=int(self.random.integers(2**31)))
        found[self.random.random(shape[0]) < self.random.choice([0, 0.5, 0.9])] = 0
        unread = self.random.random(shape[1] // inputs) < self.random.choice([0, 0.3, 0.9])
        found[:, np.repeat(unread, inputs)] = 0
        return found

    def figures(self, count: int) -> str:
        """A figure per channel, a third of them zero."""
        values = self.random.standard_normal(count).astype(np.float32)
        return self.constant(np.where(self.random.random(count) < 0.3, 0, values))

    def add_layer(self, source: str, name: str | None = None) -> None:
        width, kernel = int(self.random.integers(2, 20)), int(self.random.choice([1, 3]))
        operands = [source, self.constant(self.holed(width, self.widths[source], kernel, kernel))]
        if self.random.random() < 0.5:
            operands.append(self.figures(width))
        pads = [kernel // 2] * 4
        written = self.write("Conv", operands, width, pads=pads)
        if name:
            self.nodes[-1].output[0] = name
            self.widths.pop(written)

    def add_activation(self, source: str) -> None:
        op = str(self.random.choice(["Relu", "Sigmoid", "HardSwish", "Tanh"]))
        self.write(op, [source], self.widths[source])

    def add_normalisation(self, source: str) -> None:
        width = self.widths[source]
        variance = self.constant(self.random.random(width).astype(np.float32) + 0.5)
        operands = [source, *(self.figures(width) for _ in range(3)), variance]
        self.write("BatchNormalization", operands, width)

    def add_depthwise(self, source: str) -> None:
        width = self.widths[source]
        kernels = self.constant(self.holed(width, 1, 3, 3))
        operands = [source, kernels, self.figures(width)]
        self.write("Conv", operands, width, group=width, pads=[1, 1, 1, 1])

    def add_pooling(self, source: str) -> None:
        op = str(self.random.choice(["MaxPool", "AveragePool"]))
        border = {"count_include_pad": int(self.random.integers(2))} if op == "AveragePool" else {}
        window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        self.write(op, [source], self.widths[source], **window, **border)

    def add_addition(self, source: str) -> None:
        width = self.widths[source]
        others = [name for name in self.widths if self.widths[name] == width]
        op = str(self.random.choice(["Add", "Mul", "Sub"]))
        self.write(op, [source, str(self.random.choice(others))], width)

    def add_concatenation(self, source: str) -> None:
        other = self.pick()
        self.write("Concat", [source, other], self.widths[source] + self.widths[other], axis=1)

    def add_split(self, source: str) -> None:
        if self.widths[source] < 2:
            return
        first = int(self.random.integers(1, self.widths[source]))
        sizes = [first, self.widths[source] - first]
        names = [f"v{len(self.nodes)}.{part}" for part in range(2)]
        self.nodes.append(node("Split", [source, self.constant(ints(*sizes))], names, axis=1))
        self.widths |= dict(zip(names, sizes, strict=True))

    def add_shuffle(self, source: str) -> None:
        width = self.widths[source]
        if width % 2:
            return
        apart = self.constant(ints(-1, 2, width // 2, SIDE, SIDE))
        back = self.constant(ints(-1, width, SIDE, SIDE))
        first = f"v{len(self.nodes)}.apart"
        self.nodes.append(node("Reshape", [source, apart], [first]))
        self.nodes.append(node("Transpose", [first], [f"{first}.t"], perm=[0, 2, 1, 3, 4]))
        self.write("Reshape", [f"{first}.t", back], width)

    def add_excitation(self, source: str) -> None:
        width = self.widths[source]
        pooled, scale = f"v{len(self.nodes)}.pooled", f"v{len(self.nodes)}.scale"
        self.nodes.append(node("GlobalAveragePool", [source], [pooled]))
        kernel = self.constant(self.holed(width, width, 1, 1))
        self.nodes.append(node("Conv", [pooled, kernel, self.figures(width)], [scale]))
        self.write("Mul", [source, scale], width)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_random_graphs_keep_their_outputs_and_grow_nowhere(seed, num_steps):
    graph = RandomGraph(seed, num_steps)
    model = onnx_model(graph.nodes, graph.constants, {"x": IMAGE}, ["y"])
    after, report = lowered(model)
    require_equal(model, after, IMAGE)
    before = {item.name: item.dims for item in model.graph.initializer}
    for item in after.graph.initializer:
        if item.name in before and numpy_helper.to_array(item).dtype == np.float32:
            assert np.prod(item.dims) <= np.prod(before[item.name])
    assert all(count > 0 for count in report.removed.num_channels.values())
