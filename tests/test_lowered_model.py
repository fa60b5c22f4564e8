"""The whole model lowered: what it tells about layers inside a pruned model."""

from dataclasses import replace

import pytest
import torch
from builders import timing_of
from torch import nn

from spartan_planner.export.embedded_graph import embedded_graph
from spartan_planner.extraction import extract_workload
from spartan_planner.onnx_sessions import open_session
from spartan_planner.profiling.assembly import LOWERED, lowered_factor, scaled
from spartan_planner.profiling.lowered_model import lowered_choice, lowered_model

INPUTS = (torch.zeros(1, 3, 8, 8),)
ROUNDING = 1e-9
"""Relative; sums of a handful of float64."""


@pytest.fixture(scope="module")
def workload():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(),
        nn.Linear(64 * 64, 10),
    )  # fmt: skip
    found = extract_workload(model, INPUTS, "small")
    return replace(found, graph=embedded_graph(model, INPUTS, found))


def test_layers_that_can_be_lowered_are(workload):
    chosen = lowered_choice(workload)
    assert {name: (str(layout), kept) for name, (layout, kept) in chosen.items()} == {
        "2.weight": ("tile:64x1@16", 1)
    }
    session = open_session(lowered_model(workload))
    (output,) = session.run()
    assert output.shape == (1, 10)


def test_nothing_to_lower_is_no_model(workload):
    assert lowered_model(replace(workload, layers=workload.layers[:1])) == b""


def test_factor_explains_the_lowered_time(workload):
    """With lowered layers at 0.8 of their time apart the whole takes so much less."""
    first, body, head = (layer.shape for layer in workload.layers)
    layers = [timing_of(first, ()), timing_of(body, ("tile:64x1@16",), 4.0), timing_of(head, ())]
    sparse = layers[1].sparse[0]
    apart_ms = sparse.fixed_ms + sparse.per_block_ms
    lowered_ms = 0.5 + layers[0].dense_ms + layers[2].dense_ms + 0.8 * apart_ms
    factor = lowered_factor(workload, layers, 0.5, lowered_ms)
    assert factor == pytest.approx(0.8, rel=ROUNDING)
    after = scaled(layers[1], {LOWERED: factor}).sparse[0]
    assert after.fixed_ms + after.per_block_ms == pytest.approx(0.8 * apart_ms, rel=1e-4)


@pytest.mark.parametrize(("lowered_ms", "expected"), [(0.0, 0.5), (1e6, 1.5)])
def test_a_disturbed_time_is_bounded(workload, lowered_ms, expected):
    first, body, head = (layer.shape for layer in workload.layers)
    layers = [timing_of(first, ()), timing_of(body, ("tile:64x1@16",), 4.0), timing_of(head, ())]
    assert lowered_factor(workload, layers, 0.5, lowered_ms) == expected
