"""The time that one call of the runtime takes besides its nodes."""

import statistics

from onnx import TensorProto, helper

from spartan_planner.onnx_sessions import open_session, session_options
from spartan_planner.runtimes.benchmark_network import IR_VERSION, OPSET

_NUM_RUNS = 300


def measure_run_overhead_ms(num_threads: int) -> float:
    """Return the median time of running a graph of a single trivial node."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "trivial", [value], [output])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    session = open_session(model.SerializeToString(), options=session_options(num_threads))
    return statistics.median(session.time_ms() for _ in range(_NUM_RUNS))
