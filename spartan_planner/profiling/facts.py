"""What bounds every layer on this device, measured through the inference runtime.

Each benchmark is cut into runs of a few milliseconds, of which the fastest count: other work on the
machine can only slow a run down, and a short one often escapes it.
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from cost_models import DeviceFacts, Fact, LayerShape, LayerTiming
from cost_models.device_facts import Category
from cost_models.layer_work import layer_work
from spartan_planner.onnx_sessions import Session, open_session, session_options
from spartan_planner.runtimes.benchmark_network import IR_VERSION, OPSET, dense_network
from spartan_planner.runtimes.bursts import warm_up

NUM_RATE_RUNS = 60
"""Runs of each benchmark of arithmetic; the fastest counts."""

NUM_CHAIN_RUNS = 200
CHAIN_LENGTH = 200
"""Operations of one element each, one after the other."""

MAX_BUFFER_BYTES = 512 * 2**20
BUFFER_SHARE_OF_MEMORY = 1 / 16
NUM_BYTES_PER_READ = 4 * 2**20
"""The buffer is read piece by piece, so that no piece is in a cache when its turn comes again."""

FASTEST_PERCENT = 10.0
"""Percentile of the times of reads and chains that counts: the least would be a read that a cache
or the clock favoured."""

_X86 = ("x86_64", "amd64", "i386", "i486", "i586", "i686", "x86")


def measure_facts(num_threads: int) -> DeviceFacts:
    """Measure peak rate, bandwidth and launch overhead of this device in float32.

    ONNX Runtime measures them on its CPU provider, whichever runtime the profile is of.

    Args:
        num_threads: threads of ONNX Runtime.

    Raises:
        ModelError: the runtime cannot run the benchmarks.
    """
    threads = f"ONNX Runtime {onnxruntime.__version__}, {num_threads} thread(s)"
    memory_gb = psutil.virtual_memory().total * 1e-9
    return DeviceFacts(
        peak_gflop_per_s={
            "float32": Fact(
                _round(_peak_gflop_per_s(num_threads)),
                "measured",
                f"faster of a matrix product and a 3x3 convolution, {threads}",
            )
        },
        bandwidth_gb_per_s=Fact(
            _round(_bandwidth_gb_per_s(num_threads)),
            "measured",
            f"faster of a sum and a matrix-vector product over {_buffer_bytes() >> 20} MiB, "
            f"{threads}",
        ),
        launch_overhead_us=Fact(
            _round(_launch_overhead_us(num_threads)),
            "measured",
            f"per operation of a chain of {CHAIN_LENGTH} on one element, {threads}",
        ),
        memory_gb=Fact(_round(memory_gb), "measured", "as the operating system reports"),
    )


def facts_of_layers(layers: Sequence[LayerTiming], run_overhead_ms: float) -> DeviceFacts:
    """Return the greatest rates that any of the layers reached, dense: lower bounds.

    Args:
        layers: measured layers.
        run_overhead_ms: time of one run that no operation accounts for.
    """
    works = [(layer_work(layer.shape), layer.dense_ms) for layer in layers]
    flop_rate = max(work.num_flops / dense_ms for work, dense_ms in works) * 1e-6
    byte_rate = max(work.num_bytes / dense_ms for work, dense_ms in works) * 1e-6
    fastest = "fastest of the profiled layers"
    return DeviceFacts(
        peak_gflop_per_s={"float32": Fact(_round(flop_rate), "measured", fastest)},
        bandwidth_gb_per_s=Fact(_round(byte_rate), "measured", fastest),
        launch_overhead_us=Fact(
            _round(max(run_overhead_ms * 1e3, 1e-3)), "measured", "run of a trivial graph"
        ),
    )


def device_category(machine: str | None = None) -> Category:
    """Return what kind of processor this machine has, by the name of its architecture."""
    name = (machine or platform.machine()).lower()
    if name in _X86:
        return "x86 CPU"
    return "Arm CPU" if name.startswith(("arm", "aarch64")) else "unknown"


def peak_shapes(num_threads: int) -> tuple[LayerShape, LayerShape]:
    """Return the layers by which the peak is measured: a few milliseconds on one slow core each.

    Their arithmetic grows with the number of threads, so that every thread has enough of it.
    """
    side = 128 * round(4 * num_threads ** (1 / 3))
    channels = 128
    positions = round(28 * num_threads**0.5)
    return (
        LayerShape("linear", (side, side), (side, side)),
        LayerShape(
            "conv2d",
            (channels, channels, 3, 3),
            (1, channels, positions, positions),
            stride=(1, 1),
            padding=(1, 1),
            dilation=(1, 1),
        ),
    )


def _peak_gflop_per_s(num_threads: int) -> float:
    return max(_rate_gflop_per_s(shape, num_threads) for shape in peak_shapes(num_threads))


def _rate_gflop_per_s(shape: LayerShape, num_threads: int) -> float:
    network = dense_network([shape])
    session = open_session(network.model, options=session_options(num_threads))
    warm_up(session.run)
    fastest_ms = min(session.time_ms() for _ in range(NUM_RATE_RUNS))
    return layer_work(shape).num_flops / fastest_ms * 1e-6


def _bandwidth_gb_per_s(num_threads: int) -> float:
    num_pieces = max(2, _buffer_bytes() // NUM_BYTES_PER_READ)
    rows = 64
    columns = NUM_BYTES_PER_READ // 4 // rows
    buffer = np.ones((num_pieces, rows, columns), np.float32)
    vector = np.ones((1, rows), np.float32)
    total = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    product = helper.make_node("MatMul", ["v", "x"], ["y"])
    shapes: dict[str, Sequence[int]] = {"x": (rows, columns)}
    sessions = (
        _session([total], shapes, {}, num_threads),
        _session([product], {**shapes, "v": vector.shape}, {"v": vector}, num_threads),
    )
    times_ms = [_read_ms(session, buffer) for session in sessions]
    return NUM_BYTES_PER_READ / min(times_ms) * 1e-6


def _read_ms(session: Session, buffer: NDArray[np.float32]) -> float:
    """Time of reading one piece, each in its turn."""
    pieces = islice(cycle(buffer), max(len(buffer), NUM_RATE_RUNS))
    times = []
    for piece in pieces:
        times.append(replace(session, inputs={**session.inputs, "x": piece}).time_ms())
    return _fastest(times)


def _buffer_bytes() -> int:
    share = int(psutil.virtual_memory().total * BUFFER_SHARE_OF_MEMORY)
    return max(2 * NUM_BYTES_PER_READ, min(MAX_BUFFER_BYTES, share))


def _launch_overhead_us(num_threads: int) -> float:
    one, many = (_chain_ms(length, num_threads) for length in (1, 1 + CHAIN_LENGTH))
    # A clock that cannot tell the two apart leaves its own resolution as the bound.
    return max(many - one, 1e-3) * 1e3 / CHAIN_LENGTH


def _chain_ms(length: int, num_threads: int) -> float:
    nodes = [
        helper.make_node("Sigmoid", [f"x{index}" if index else "x"], [f"x{index + 1}"])
        for index in range(length - 1)
    ]
    nodes.append(helper.make_node("Sigmoid", [f"x{length - 1}" if length > 1 else "x"], ["y"]))
    session = _session(nodes, {"x": (1,)}, {"x": np.ones(1, np.float32)}, num_threads)
    warm_up(session.run)
    return _fastest(session.time_ms() for _ in range(NUM_CHAIN_RUNS))


def _session(
    nodes: Sequence[NodeProto],
    shapes: dict[str, Sequence[int]],
    inputs: dict[str, NDArray[np.generic]],
    num_threads: int,
) -> Session:
    model = _model(nodes, shapes)
    return open_session(model.SerializeToString(), dict(inputs), session_options(num_threads))


def _model(nodes: Sequence[NodeProto], shapes: dict[str, Sequence[int]]) -> ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "facts", inputs, [output])
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _fastest(times: Iterable[float]) -> float:
    return float(np.percentile(list(times), FASTEST_PERCENT))


def _round(figure: float) -> float:
    """Keep four significant digits: more would be noise."""
    return float(f"{figure:.4g}")
