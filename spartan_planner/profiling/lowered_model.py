"""The whole model of a workload with its layers lowered, ready to run.

Inside a pruned model layers are faster than apart from it: its weights fit into nearer caches.
Measuring one lowered form of the whole tells by how much.
"""

import numpy as np
import onnx_ir as ir

from cost_models import Layout, Workload
from spartan_planner.graph_skeleton import graph_of_text
from spartan_planner.lowering import lower_graph
from spartan_planner.profiling.treatments import candidate_layouts, kept_block_counts
from spartan_planner.profiling.whole_model import prepared
from spartan_planner.runtimes.benchmark_network import random_mask

LOWERED_DENSITY = 1 / 4
PREFERRED_GROUP_SIZE = 64


def lowered_choice(workload: Workload) -> dict[str, tuple[Layout, int]]:
    """Return the layout and the kept blocks of every layer that is lowered, by layer name."""
    chosen = {}
    for layer in workload.layers:
        layouts = candidate_layouts(layer.shape) if layer.prunable else ()
        if layouts and not layer.further_shapes:
            layout = min(layouts, key=lambda item: abs(item.tile_outputs - PREFERRED_GROUP_SIZE))
            (kept,) = kept_block_counts(layer.shape, layout, (LOWERED_DENSITY,))
            chosen[layer.name] = layout, kept
    return chosen


def lowered_model(workload: Workload, seed: int = 0) -> bytes:
    """Return the workload's graph with noise for weights and its layers lowered, serialized.

    Empty where no layer can be lowered, or where the graph does not hold the layers by name.

    Raises:
        DocumentError: the graph is damaged or too large to fill.
    """
    chosen = lowered_choice(workload)
    refilled = graph_of_text(workload.graph)
    if not chosen or any(name not in refilled.initializers for name in chosen):
        return b""
    generator = np.random.default_rng(seed)
    graph = ir.from_proto(refilled.model)
    layouts = {}
    for name, (layout, kept) in chosen.items():
        value = graph.graph.initializers[refilled.initializers[name]]
        assert value.const_value is not None
        mask = random_mask(workload.layer(name).shape, layout, kept, generator)
        turned = mask.T if _is_stored_transposed(value) else mask
        masked = (value.const_value.numpy() * turned).astype(np.float32)
        value.const_value = ir.tensor(masked, name=value.name)
        layouts[refilled.initializers[name]] = layout
    lower_graph(graph, layouts)
    return prepared(ir.to_proto(graph), refilled.input_shapes)


def _is_stored_transposed(value: ir.Value) -> bool:
    """Whether a weight is stored ``[in, out]``, as a product reads it."""
    reader = next(iter(value.consumers()))
    is_gemm = reader.op_type == "Gemm" and not reader.attributes.get_int("transB", 0)
    return reader.op_type == "MatMul" or is_gemm
