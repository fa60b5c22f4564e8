"""The graph as text and back."""

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from cost_models import Workload
from cost_models.documents import document, parse_document
from spartan_planner.errors import DocumentError, ModelError
from spartan_planner.graph_skeleton.noise import fill_with_noise, num_left_out_bytes
from spartan_planner.graph_skeleton.tensors import (
    empty,
    every_tensor,
    graphs_of,
    is_external,
    is_weight,
    named_tensors,
    nodes_of,
)

GRAPH_KEY = "spartan_planner.graph"
"""Key of the model's metadata under which a skeleton keeps what it says about itself."""

MAX_GRAPH_BYTES = 64 * 1024 * 1024
"""Largest graph without weights; that of a ResNet-50 has 30 kB."""

MAX_WEIGHT_BYTES = 2 * 1000**3
"""Most bytes of weights that are filled in unless more are allowed: a runtime takes a model from
memory up to 2 GiB."""


@document
@dataclass(frozen=True)
class SkeletonFacts:
    """What a skeleton says about itself.

    Attributes:
        input_shapes: shapes of the example inputs, in the order of the graph's inputs.
        initializers: parameter name to the name of the initializer that holds it.
        fingerprint: of the workload that the graph belongs to.
    """

    input_shapes: tuple[tuple[int, ...], ...]
    initializers: dict[str, str]
    fingerprint: str = ""


@dataclass(frozen=True)
class RefilledGraph:
    """A graph that runs: the model's structure with noise for weights.

    Attributes:
        model: the graph, below :data:`MAX_WEIGHT_BYTES` unless more were allowed.
        input_shapes: shapes of the example inputs, in the order of the graph's inputs.
        initializers: parameter name to the name of the initializer that holds it.
    """

    model: ModelProto
    input_shapes: tuple[tuple[int, ...], ...]
    initializers: dict[str, str]


def graph_text(
    model: ir.Model,
    input_shapes: Sequence[Sequence[int]],
    initializers: Mapping[str, str] | None = None,
    fingerprint: str = "",
) -> str:
    """Return the graph with its weights left out, compressed, as base64 text.

    Left out are the values of real tensors, and of 4 and 8 bit integers, with more than 128
    elements; their shape and type stay.  Left out as well is what no runtime needs: remarks,
    metadata, inferred shapes.  Equal models give equal texts under one version of zlib.

    Args:
        model: the graph; it is not changed.
        input_shapes: shapes of the example inputs, in the order of the graph's inputs.
        initializers: parameter name to initializer name
            (:func:`~spartan_planner.graph_skeleton.initializer_names`).
        fingerprint: of the workload that will hold the graph.

    Raises:
        ModelError: the number of shapes is not that of the inputs, or the graph is larger than
            64 MiB without its weights.
    """
    with _without_weights(model):
        proto = ir.serde.serialize_model(model)
    return graph_text_of_proto(proto, input_shapes, initializers, fingerprint)


def graph_text_of_proto(
    model: ModelProto,
    input_shapes: Sequence[Sequence[int]],
    initializers: Mapping[str, str] | None = None,
    fingerprint: str = "",
) -> str:
    """Return the text of a graph that is at hand as a protocol buffer; it is changed.

    Raises:
        ModelError: as :func:`graph_text`.
    """
    num_inputs = len(_runtime_inputs(model, {tensor.name for tensor in model.graph.initializer}))
    if len(input_shapes) != num_inputs:
        raise ModelError(
            f"the graph has {num_inputs} inputs, {len(input_shapes)} shapes were given; give one "
            "shape per input"
        )
    for _, tensor in named_tensors(model):
        if is_weight(tensor):
            empty(tensor)
    _strip_remarks(model)
    _add_facts(model, input_shapes, initializers or {}, fingerprint)
    content = model.SerializeToString(deterministic=True)
    if len(content) > MAX_GRAPH_BYTES:
        raise ModelError(
            f"the graph has {len(content)} bytes without its weights; at most {MAX_GRAPH_BYTES} "
            "are kept in a workload: it holds large tables of integers or unrolled loops"
        )
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


@contextmanager
def _without_weights(model: ir.Model) -> Iterator[None]:
    """Take the weights out while the model is serialized: they may be larger than the memory."""
    taken: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None:
                    continue
                hollow = onnx.TensorProto(
                    name=value.name, dims=tensor.shape.numpy(), data_type=tensor.dtype.value
                )
                if is_weight(hollow):
                    taken.append((value, tensor))
                    value.const_value = ir.serde.TensorProtoTensor(hollow)
                elif isinstance(tensor, ir.ExternalTensor):
                    taken.append((value, tensor))
                    value.const_value = ir.tensor(tensor.numpy().copy(), name=value.name)
        yield
    finally:
        for value, tensor in taken:
            value.const_value = tensor


def _strip_remarks(model: ModelProto) -> None:
    for name in ("doc_string", "metadata_props", "training_info"):
        model.ClearField(name)
    for graph in graphs_of(model):
        for name in ("doc_string", "metadata_props", "value_info"):
            graph.ClearField(name)
    for item in (*nodes_of(model), *every_tensor(model), *model.functions):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for function in model.functions:
        function.ClearField("value_info")


def _add_facts(
    model: ModelProto,
    input_shapes: Sequence[Sequence[int]],
    initializers: Mapping[str, str],
    fingerprint: str,
) -> None:
    facts = {
        "input_shapes": [list(map(int, shape)) for shape in input_shapes],
        "initializers": dict(initializers),
        "fingerprint": fingerprint,
    }
    model.metadata_props.add(key=GRAPH_KEY, value=json.dumps(facts, separators=(",", ":")))


def graph_of_text(
    text: str, seed: int = 0, max_weight_bytes: int = MAX_WEIGHT_BYTES
) -> RefilledGraph:
    """Return the graph of a text with noise in the place of its weights.

    Args:
        text: of :func:`graph_text`, perhaps from a file of unknown origin.
        seed: of the noise.
        max_weight_bytes: most bytes of weights to fill in.

    Raises:
        DocumentError: the text is empty or damaged, names other files, or would unfold to more
            than 64 MiB of graph or ``max_weight_bytes`` of weights.
    """
    model = _parse(_unpack(text))
    facts = skeleton_facts(model)
    if any(is_external(tensor) for tensor in every_tensor(model)):
        raise DocumentError(
            "the graph of this workload names other files; a graph may not: inspect the model again"
        )
    num_bytes = num_left_out_bytes(model)
    if num_bytes > max_weight_bytes:
        raise DocumentError(
            f"the graph of this workload has {num_bytes} bytes of weights; at most "
            f"{max_weight_bytes} are filled in: measure its layers without the whole model"
        )
    fill_with_noise(model, seed)
    return RefilledGraph(model, facts.input_shapes, facts.initializers)


def require_own_graph(workload: Workload) -> None:
    """Refuse a workload that holds the graph of another model.

    Raises:
        DocumentError: it does, or the graph is damaged.
    """
    if workload.graph and skeleton_facts(_parse(_unpack(workload.graph))).fingerprint != (
        workload.fingerprint
    ):
        raise DocumentError(
            f"the graph in the workload of {workload.model} is not known to be that model's: it "
            "has another fingerprint; inspect the model again"
        )


def layer_initializers(model: ModelProto) -> dict[str, str]:
    """Return, of a skeleton, parameter name to the name of the initializer that holds it.

    Raises:
        DocumentError: the model is no skeleton.
    """
    return skeleton_facts(model).initializers


def skeleton_facts(model: ModelProto) -> SkeletonFacts:
    """Return what a skeleton says about itself.

    Raises:
        DocumentError: the model is no skeleton, or contradicts itself.
    """
    kept = [item.value for item in model.metadata_props if item.key == GRAPH_KEY]
    if len(kept) != 1:
        raise DocumentError(
            f"the graph of this workload has {len(kept)} entries {GRAPH_KEY}, it must have one; "
            "inspect the model again"
        )
    facts = parse_document(kept[0], SkeletonFacts, f"{GRAPH_KEY} in the graph of this workload")
    known = {tensor.name for tensor in model.graph.initializer}
    unknown = sorted(set(facts.initializers.values()) - known)
    if unknown or len(facts.input_shapes) != len(_runtime_inputs(model, known)):
        what = f"initializer {unknown[0]!r}" if unknown else "inputs"
        raise DocumentError(
            f"the graph of this workload does not have the {what} that it names; inspect the "
            "model again"
        )
    return facts


def _runtime_inputs(model: ModelProto, initializers: set[str]) -> list[str]:
    """Graph inputs that must be fed: an initializer of the same name is only a default."""
    return [item.name for item in model.graph.input if item.name not in initializers]


def _unpack(text: str) -> bytes:
    if not text:
        raise DocumentError(
            "this workload has no graph: its model could not be exported to ONNX; measure its "
            "layers without the whole model"
        )
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(text, validate=True), MAX_GRAPH_BYTES + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise DocumentError(
            f"the graph of this workload is damaged ({error}); inspect the model again"
        ) from error
    if len(content) > MAX_GRAPH_BYTES:
        raise DocumentError(
            f"the graph of this workload unfolds to more than {MAX_GRAPH_BYTES} bytes, which is "
            "the limit; inspect the model again"
        )
    if not unpacker.eof or unpacker.unused_data:
        raise DocumentError(
            "the graph of this workload is cut off or has something after its end; inspect the "
            "model again"
        )
    return content


def _parse(content: bytes) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        raise DocumentError(
            "the graph of this workload is not an ONNX graph; inspect the model again"
        ) from error
    for tensor in every_tensor(model):
        if any(size < 0 for size in tensor.dims) or tensor.data_type not in _ELEMENT_TYPES:
            raise DocumentError(
                f"tensor {tensor.name!r} in the graph of this workload has no valid shape or "
                "type; inspect the model again"
            )
    return model


_ELEMENT_TYPES = frozenset(int(item) for item in ir.DataType)
