"""Channels that are the same figure everywhere, and what operations make of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import helper

from spartan_planner.lowering import routes
from spartan_planner.lowering.carriers import is_depthwise
from spartan_planner.lowering.constants import Array, constant_array
from spartan_planner.lowering.routes import Carrier, Outlet
from spartan_planner.lowering.transposes import COMBINING, ELEMENTWISE
from spartan_planner.onnx_sessions import open_session


@dataclass(frozen=True)
class ConstantChannels:
    """Channels of an activation that are the same figure everywhere, whatever the input.

    Attributes:
        axis: of the channels.
        mask: ``[channels]``, true where constant.
        figures: ``[channels]``; 0 where not constant.
    """

    axis: int
    mask: np.ndarray
    figures: np.ndarray


def carried(
    carrier: Carrier, sources: Sequence[ConstantChannels | None]
) -> list[ConstantChannels | None]:
    """Return which channels of a carrier's outlets are constant; ``None`` where none is.

    Args:
        carrier: of the node.
        sources: of each of its activations, in the order of ``carrier.sources``.
    """
    if carrier.node.op_type in routes.READERS:
        return [_routed(outlet, sources) for outlet in carrier.outlets]
    found = _computed(carrier, sources)
    if found is None or not (mask := found[0] & np.isfinite(found[1])).any():
        return [None]
    return [ConstantChannels(carrier.outlets[0].axis, mask, np.where(mask, found[1], 0))]


def silenced(node: ir.Node, num_channels: int) -> ConstantChannels | None:
    """Return the channels that a node makes constant by its own weights, whatever it reads.

    Those are a normalisation's channels of scale zero, and a depthwise convolution's zero filters;
    either leaves the bias.

    Args:
        node: the node.
        num_channels: of the activation that it reads, on axis 1.
    """
    if node.op_type == "BatchNormalization" and len(node.inputs) > 2:
        scale, bias = (constant_array(value) for value in node.inputs[1:3])
    elif is_depthwise(node, num_channels):
        scale = constant_array(node.inputs[1])
        bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        bias = np.zeros(num_channels, scale.dtype) if bias is None else bias  # type: ignore[union-attr]
    else:
        return None
    if scale is None or bias is None or len(scale) != num_channels:
        return None
    mask: np.ndarray = np.logical_not(scale.reshape(num_channels, -1).any(axis=1))
    return ConstantChannels(1, mask, np.where(mask, bias, 0)) if mask.any() else None


def merged(one: ConstantChannels | None, other: ConstantChannels | None) -> ConstantChannels | None:
    """Return the channels that are constant by one of two reasons; the second decides of both."""
    if one is None or other is None:
        return one or other
    figures = np.where(other.mask, other.figures, one.figures)
    return ConstantChannels(one.axis, one.mask | other.mask, figures)


def _routed(outlet: Outlet, sources: Sequence[ConstantChannels | None]) -> ConstantChannels | None:
    known = [item for item in sources if item is not None]
    num_channels = len(outlet.origins[0])
    mask = np.zeros(num_channels, np.bool_)
    figures = np.zeros(num_channels, known[0].figures.dtype)
    for origin, source in zip(outlet.origins, sources, strict=True):
        if source is None:
            continue
        constant = (origin >= 0) & source.mask[origin]
        mask |= constant
        figures = np.where(constant, source.figures[origin], figures)
    return ConstantChannels(outlet.axis, mask, figures) if mask.any() else None


def _computed(
    carrier: Carrier, sources: Sequence[ConstantChannels | None]
) -> tuple[np.ndarray, Array] | None:
    """Which channels are constant, and the figures of all."""
    node, known = carrier.node, [item for item in sources if item is not None]
    if len(known) < len(sources):
        # Zero times whatever the other factor is; other figures depend on it.
        mask = known[0].mask & (known[0].figures == 0)
        return (mask, known[0].figures) if node.op_type == "Mul" else None
    mask = np.logical_and.reduce([item.mask for item in known])
    if node.op_type == "Mul" and len(known) > 1:
        zero = np.logical_or.reduce([item.mask & (item.figures == 0) for item in known])
        return mask | zero, known[0].figures * known[1].figures
    if node.op_type in ("AveragePool", "Conv"):
        # At the border zeros of the padding mix with the figure: only zero stays what it is.
        mask = mask & (known[0].figures == 0)
    figures = _figures(carrier, known)
    return None if figures is None else (mask, figures)


def _figures(carrier: Carrier, sources: Sequence[ConstantChannels]) -> Array | None:
    node, first = carrier.node, sources[0].figures
    if node.op_type in ELEMENTWISE | COMBINING:
        operands = _operands(carrier, sources)
        return None if operands is None else _evaluate(node, operands)
    if node.op_type == "BatchNormalization":
        parameters = [constant_array(value) for value in node.inputs[1:]]
        result = _evaluate(node, [first[None], *parameters])
        return result[0] if result is not None else None
    if node.op_type == "Conv":
        bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        return bias if bias is not None else np.zeros_like(first)
    return first


def _operands(carrier: Carrier, sources: Sequence[ConstantChannels]) -> list[Array | None] | None:
    """What a node combines, ``[channels]`` each; ``None`` where a constant varies inside one."""
    operands = [constant_array(value) for value in carrier.node.inputs]
    num_channels = len(sources[0].mask)
    for index, array in enumerate(operands):
        if index in carrier.sources or array is None:
            continue
        if array.size not in (1, num_channels) or (
            array.size > 1 and index not in dict(carrier.parameters)
        ):
            return None
        operands[index] = array.reshape(-1) if array.size > 1 else array.reshape(())
    for index, source in zip(carrier.sources, sources, strict=True):
        operands[index] = source.figures
    return operands


def _evaluate(node: ir.Node, operands: Sequence[Array | None]) -> Array | None:
    """Run one node on constants, in the runtime itself so that its rounding is the runtime's."""
    names = [f"x{index}" if item is not None else "" for index, item in enumerate(operands)]
    feed = {name: item for name, item in zip(names, operands, strict=True) if item is not None}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("y")
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.asarray(item).dtype), np.shape(item)
        )
        for name, item in feed.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(next(iter(feed.values())).dtype)
    graph = helper.make_graph(
        [proto], "node", values, [helper.make_tensor_value_info("y", kind, None)]
    )
    version = node.version or (node.graph.opset_imports.get("") if node.graph else None) or 20
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10
    )
    with np.errstate(all="ignore"):
        return np.asarray(open_session(model.SerializeToString(), feed).run()[0])
