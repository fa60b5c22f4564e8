"""Figures that others published about ResNet-50, reproduced to their printed precision."""

import csv
import math
from pathlib import Path

import pytest

from benchmarks.resnet50 import resnet50_workload
from cost_models import Layout, cost_model
from cost_models.layer_work import output_shape
from spartan_planner.transport.densities import erk_densities, uniform_densities

STR_TABLE = Path(__file__).parent / "data" / "str_resnet50_sparsities.csv"

# RigL (Evci et al. 2020, table 2 and README of google-research/rigl): share of dense FLOPs.
RIGL = {
    # sparsity: (ERK, uniform with the first convolution dense)
    0.80: ("0.42", "0.23"),
    0.90: ("0.24", "0.13"),
    0.95: ("0.12", "0.08"),
    0.965: ("0.09", "0.07"),
}
RIGL_DENSE_FLOPS = "8.2e+09"
RIGL_FIRST_SIDE = 115
"""RigL's counter pads the first convolution, whose input is padded already, a second time:
115 x 115 places instead of 112 x 112."""

RIGL_CONVENTION = 0.003
"""Absolute: what RigL's convention changes in these shares against multiply-adds alone."""

# STR (Kusupati et al. 2020): overall sparsity in per cent, multiply-adds in millions.
STR = {"81.27": 705, "90.23": 343, "95.15": 162, "96.11": 127, "98.05": 73, "98.98": 47}
STR_ROUNDING = 0.005
"""Per cent; sparsities are printed with two decimals."""

WORKLOAD = resnet50_workload()
SHAPES = [layer.shape.weight_shape for layer in WORKLOAD.layers]


def rigl_flops(densities) -> float:
    """RigL's count: two operations per multiply-add and one more per output, never pruned.

    Per output of a layer with n kept products: n multiplications, n - 1 additions, one for a bias
    and one for an activation, whether the layer has them or not.
    """
    total = 0.0
    for layer, density in zip(WORKLOAD.layers, densities, strict=True):
        num_outputs, macs = math.prod(output_shape(layer.shape)), float(layer.macs)
        if layer.name == "conv1.weight":
            more = (RIGL_FIRST_SIDE / (layer.shape.input_shape[2] // 2)) ** 2
            num_outputs, macs = num_outputs * more, macs * more
        total += 2 * density * macs + num_outputs
    return total


def flops(densities) -> float:
    """Ours, by the cost model, of elements."""
    model, element = cost_model("flops"), Layout.parse("element")
    return sum(
        model.linear_cost(layer, element, None).sparse(density * layer.num_weights)
        for layer, density in zip(WORKLOAD.layers, densities, strict=True)
    )


def rigl_densities(sparsity):
    density = 1 - sparsity
    return erk_densities(SHAPES, density), uniform_densities(SHAPES, density, [0])


def test_the_table_is_torchvisions_model():
    # Of torchvision.models.resnet50(): parameters, multiply-adds, SHA-256 of names and shapes.
    assert WORKLOAD.num_parameters == 25_557_032
    assert WORKLOAD.macs == 4_089_184_256
    assert WORKLOAD.fingerprint.startswith("e49e1f349708ac177fece47bd9b9676258c8a64f8145f7c4")
    assert len(WORKLOAD.layers) == 54
    assert sum(layer.num_weights for layer in WORKLOAD.layers) == 25_502_912


@pytest.mark.parametrize("sparsity", RIGL)
def test_rigl_shares_of_flops_by_rigls_own_count(sparsity):
    dense = rigl_flops([1.0] * len(SHAPES))
    assert f"{dense:.1e}" == RIGL_DENSE_FLOPS
    shares = [f"{rigl_flops(kept) / dense:.2f}" for kept in rigl_densities(sparsity)]
    assert tuple(shares) == RIGL[sparsity]


@pytest.mark.parametrize("sparsity", RIGL)
def test_rigl_shares_of_flops_by_multiply_adds_alone(sparsity):
    """Without the second padding and the one operation per output that RigL adds."""
    dense = cost_model("flops")
    total = sum(dense.dense_cost(layer, None) for layer in WORKLOAD.layers)
    rigl_total = rigl_flops([1.0] * len(SHAPES))
    for kept in rigl_densities(sparsity):
        assert abs(flops(kept) / total - rigl_flops(kept) / rigl_total) <= RIGL_CONVENTION


def str_table() -> dict[str, dict[str, float]]:
    """Sparsities by overall sparsity and layer."""
    lines = STR_TABLE.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {text: {row["layer"]: float(row[text]) / 100 for row in rows} for text in STR}


@pytest.mark.parametrize("overall", STR)
def test_str_multiply_adds_and_sparsity(overall):
    sparsities = str_table()[overall]
    assert set(sparsities) == {layer.name for layer in WORKLOAD.layers}
    kept = [1 - sparsities[layer.name] for layer in WORKLOAD.layers]
    assert round(flops(kept) / 2 / 1e6) == STR[overall]
    num_kept = sum(d * layer.num_weights for d, layer in zip(kept, WORKLOAD.layers, strict=True))
    sparsity = 100 * (1 - num_kept / 25_502_912)
    assert sparsity == pytest.approx(float(overall), abs=2 * STR_ROUNDING)
