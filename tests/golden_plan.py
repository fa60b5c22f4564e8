"""Prints a plan for weights made by a formula; run with the name of the weights' source."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from builders import conv_node, conv_shape, linear_shape, onnx_model, profile_of, timing_of
from builders import workload_of as workload_of_layers
from onnx import helper
from safetensors.numpy import save_file

from cost_models import LayerWorkload
from cost_models.documents import dump_document
from spartan_planner.planning import (
    ArrayWeights,
    OnnxWeights,
    SafetensorsWeights,
    parse_budget,
    plan_workload,
    read_index,
)

LAYERS = (
    LayerWorkload("a", conv_shape(64, 64), 64),
    LayerWorkload("b", conv_shape(128, 64, 1), 64),
    LayerWorkload("head", linear_shape(12, 128), 1),
)


def weight(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of 1/1024 between -1 and 1: their sums are exact in any order."""
    places = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed << 32)
    mixed = (places * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> 40
    return ((mixed % 2049).astype(np.float32) / 1024 - 1).reshape(shape)


def arrays() -> dict[str, np.ndarray]:
    return {
        layer.name: weight(index, layer.shape.weight_shape) * np.float32(2.0**-index)
        for index, layer in enumerate(LAYERS)
    }


def onnx_weights(folder: Path, is_external: bool) -> OnnxWeights:
    """The head is stored as ``[in, out]``, as exporters do."""
    held = arrays()
    held["head"] = np.ascontiguousarray(held["head"].T)
    nodes = [
        conv_node("a", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        conv_node("b", "y", "z", kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["z", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
    ]
    constants = {**held, "axes": np.array([2, 3])}
    model = onnx_model(nodes, constants, {"x": (1, 64, 8, 8)}, ["logits"])
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=is_external, size_threshold=0)
    return OnnxWeights.of(path)


def weights_of(source: str, folder: Path):
    if source == "safetensors":
        save_file(arrays(), folder / "m.safetensors")
        return SafetensorsWeights(read_index(folder))
    if source.startswith("onnx"):
        return onnx_weights(folder, source == "onnx-external")
    return ArrayWeights(arrays())


def main(source: str) -> str:
    workload = workload_of_layers(*LAYERS, extra_parameters=100, model="golden")
    profile = profile_of(
        timing_of(LAYERS[0].shape, ("tile:32x1@16", "tile:64x1@16"), 1.0, 0.125),
        timing_of(LAYERS[1].shape, ("tile:32x1@16",), 0.5, 0.0625),
        timing_of(LAYERS[2].shape, (), 0.03125),
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_of(source, Path(folder))
        latency = plan_workload(workload, weights, [parse_budget("latency=60%")], profile=profile)
        params = plan_workload(
            workload, weights, [parse_budget("params=50%")], layouts=["element", "tile:24x3", "2:4"]
        )
        return dump_document(latency) + "---\n" + dump_document(params)


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]))
