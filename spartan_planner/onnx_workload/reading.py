"""ONNX files read with their weights left where they are."""

from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto, external_data_helper, inliner

from spartan_planner.errors import ModelError
from spartan_planner.graph_skeleton.tensors import (
    empty,
    every_tensor,
    graphs_of,
    is_external,
    is_weight,
    named_tensors,
)

MAX_FILE_BYTES = 2**31 - 1
"""No larger file is a valid protocol buffer; larger models keep weights in files beside it."""


def read_hollow(path: Path) -> ModelProto:
    """Read a model without the values of its weights.

    Weights in further files are not read at all.  What decides shapes (integers, small tensors)
    is, from the model's own folder only.  Functions are inlined, and weights that stand in
    ``Constant`` nodes become initializers.

    Raises:
        ModelError: the file is missing, too large or not an ONNX model, or names data outside its
            folder.
    """
    model = _parse(path)
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model: it has no graph; export it again")
    _leave_out_weights(model, path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    for graph in graphs_of(model):
        _lift_constants(graph)
    return model


def _parse(path: Path) -> ModelProto:
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise ModelError(
                f"{path} has {num_bytes} bytes; an ONNX file has at most {MAX_FILE_BYTES}: save "
                "the model with its weights as external data"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check the path") from error
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX model, or it is cut off; export or copy it again"
        ) from error
    return model


def _leave_out_weights(model: ModelProto, path: Path) -> None:
    for _, tensor in named_tensors(model):
        if is_weight(tensor):
            empty(tensor)
    for tensor in every_tensor(model):
        if is_external(tensor):
            _load_small(tensor, path)


def _load_small(tensor: TensorProto, path: Path) -> None:
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the data of tensor {tensor.name!r} of {path} cannot be read from the file that the "
            f"model names for them ({reason}); keep all files of a model in one folder"
        ) from error


def _lift_constants(graph: GraphProto) -> None:
    lifted = [node for node in graph.node if _holds_weight(node)]
    for node in lifted:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)


def _holds_weight(node: onnx.NodeProto) -> bool:
    tensors: Iterable[TensorProto] = (item.t for item in node.attribute if item.HasField("t"))
    return node.op_type == "Constant" and any(is_weight(tensor) for tensor in tensors)
