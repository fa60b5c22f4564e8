"""Values written in the place of a weight, and what is known of them."""

import math

import pytest
import torch

from spartan_planner.errors import TransportError
from spartan_planner.transport import passes, take_magnitudes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [None, 60])
def test_moves_a_weight_aside_and_tells_its_range(dtype, chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setattr(passes, "_CPU_CHUNK", chunk)
    weight = torch.randn(11, 17, generator=torch.Generator().manual_seed(0), dtype=dtype)
    original, aside = weight.clone(), torch.empty_like(weight)
    least, greatest = take_magnitudes(weight, aside)
    assert torch.equal(aside, original)
    assert torch.equal(weight, original.abs())
    assert (least, greatest) == (original.abs().min(), original.abs().max())


def test_a_nan_is_seen_and_nothing_has_no_range():
    weight = torch.tensor([1.0, math.nan, 2.0])
    assert take_magnitudes(weight, torch.empty(3)).isnan().all()
    assert take_magnitudes(torch.empty(0), torch.empty(0)).tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("weight", "aside"),
    [
        (torch.zeros(3, 4), torch.zeros(11)),
        (torch.zeros(3, 4).T, torch.zeros(4, 3)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    ],
)
def test_refuses_what_does_not_fit(weight, aside):
    with pytest.raises(TransportError, match="copied aside"):
        take_magnitudes(weight, aside)
