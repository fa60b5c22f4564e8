"""The example of a file pruned by torch alone: lowered, it computes the same with less."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cost_models import Workload
from spartan_planner.onnx_workload import workload_of_onnx

EXAMPLE = Path(__file__).parents[1] / "examples" / "pruned_elsewhere" / "prune_and_lower.py"

FLOAT32_ROUNDING = 1e-4
"""Relative to the largest output: seven layers of sums of a thousand products, reordered."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = importlib.util.spec_from_file_location("prune_and_lower", EXAMPLE)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("example")
    with warnings.catch_warnings():
        # torch's exporter warns of torch's own deprecations.
        warnings.simplefilter("ignore")
        module.main(folder)
    return folder


def outputs(path: Path, batch: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(5).standard_normal((batch, 3, 32, 32), np.float32)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("batch", [1, 4])
def test_outputs_stay_the_same(folder, batch):
    expected = outputs(folder / "pruned.onnx", batch)
    np.testing.assert_allclose(
        outputs(folder / "lowered.onnx", batch),
        expected,
        rtol=0,
        atol=FLOAT32_ROUNDING * np.abs(expected).max(),
    )


def macs(workload: Workload) -> int:
    return sum(layer.macs for layer in workload.layers)


def test_about_half_of_the_blocks_work_is_gone(folder):
    before = workload_of_onnx(folder / "pruned.onnx")
    after = workload_of_onnx(folder / "lowered.onnx")
    # 64 of 128 filters stay, and at most one of the dead ones, which stands for all at the border.
    kept = {layer.shape.weight_shape[0] for layer in after.layers}
    assert kept - {10, 128} <= {64, 65}
    assert macs(after) < 0.53 * macs(before)
