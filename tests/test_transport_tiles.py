"""Block values, the mask applied and the gradient of DESIGN 4.4 against an index per element."""

import pytest
import torch

from spartan_planner.errors import TransportError
from spartan_planner.transport import (
    expand_tiles,
    mask_gradient,
    masked_weight,
    passes,
    tile_values,
    weight_gradient,
)

CASES = [
    ((10, 7, 3, 3), (4, 2, 3, 3)),
    ((10, 7, 3, 3), (4, 1, 9, 9)),
    ((10, 7, 3, 3), (1, 1, 1, 1)),
    ((10, 7, 3, 3), (1, 1, 3, 3)),
    ((10, 7, 3, 3), (3, 2, 2, 2)),
    ((10, 7, 3, 3), (99, 1, 1, 1)),
    ((10, 7, 3, 3), (99, 99, 99, 99)),
    ((5,), (2,)),
    ((30, 50), (7, 16)),
    ((30, 50), (30, 1)),
    ((30, 50), (1, 4)),
    ((0, 4), (2, 2)),
]
# float32 sums of a few hundred terms.
SUM = {"rtol": 1e-5, "atol": 1e-5}


def block_index(shape, tile):
    grid = [-(-side // step) for side, step in zip(shape, tile, strict=True)]
    index = torch.zeros(shape, dtype=torch.int64)
    for axis, (side, step) in enumerate(zip(shape, tile, strict=True)):
        along = torch.arange(side) // step
        index = index * grid[axis] + along.view(-1, *[1] * (len(shape) - axis - 1))
    return index, grid


@pytest.fixture(params=[None, 60], ids=["one chunk", "many chunks"], autouse=True)
def chunks(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(passes, "_CPU_CHUNK", request.param)


@pytest.mark.parametrize("tile", [(64, 64), (1, 64), (1, 1)])
@pytest.mark.parametrize("size", [1e-4, 300.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_products_of_half_precision_are_those_of_float32(dtype, size, tile):
    gradient = weight = torch.full((64, 64), size).to(dtype)
    expected = float(weight[0, 0]) ** 2 * tile[0] * tile[1]
    found = mask_gradient(gradient, weight, tile)
    torch.testing.assert_close(found, torch.full_like(found, expected), **SUM | {"atol": 0.0})


@pytest.mark.parametrize(("shape", "tile"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_against_an_index_per_element(shape, tile, dtype):
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(shape, generator=generator).to(dtype)
    gradient = torch.randn(shape, generator=generator).to(dtype)
    index, grid = block_index(shape, tile)
    wide = torch.promote_types(dtype, torch.float32)

    def sums(elements):
        zeros = torch.zeros(grid, dtype=wide)
        return zeros.view(-1).index_add_(0, index.flatten(), elements.to(wide).flatten()).view(grid)

    values = tile_values(weight, tile)
    assert values.dtype == wide
    torch.testing.assert_close(values, sums(weight.abs()), **SUM)
    expected = sums(weight.to(wide) * gradient.to(wide))
    # A product of two bfloat16 is rounded before it is summed.
    coarse = {"rtol": 2e-2, "atol": 2e-1} if dtype == torch.bfloat16 else SUM
    torch.testing.assert_close(mask_gradient(gradient, weight, tile), expected, **coarse)

    soft, slope = torch.rand(grid), torch.randn(grid)
    hard = torch.rand(grid) < 0.5
    assert torch.equal(expand_tiles(soft, tile, shape), soft.view(-1)[index])
    masked = weight * (soft * hard).view(-1)[index]
    torch.testing.assert_close(masked_weight(weight, soft, hard, tile), masked.to(dtype))
    expected = gradient * soft.view(-1)[index] + weight.sign() * slope.view(-1)[index]
    found = weight_gradient(gradient, weight, soft, slope, tile)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else SUM
    torch.testing.assert_close(found, expected.to(dtype), **tolerance)


def test_results_can_be_written_in_place():
    weight, gradient = torch.randn(6, 8), torch.randn(6, 8)
    soft, slope = torch.rand(2, 8), torch.randn(2, 8)
    hard = torch.rand(2, 8) < 0.5
    expected = weight_gradient(gradient, weight, soft, slope, (4, 1))
    assert weight_gradient(gradient, weight, soft, slope, (4, 1), out=gradient) is gradient
    torch.testing.assert_close(gradient, expected)
    expected = masked_weight(weight, soft, hard, (4, 1))
    assert torch.equal(masked_weight(weight, soft, hard, (4, 1), out=weight), expected)


def test_memory_order_does_not_matter():
    weight = torch.randn(8, 6, 3, 3)
    last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(tile_values(last, (4, 1, 3, 3)), tile_values(weight, (4, 1, 3, 3)))
    soft, hard = torch.rand(2, 6, 1, 1), torch.ones(2, 6, 1, 1, dtype=torch.bool)
    a, b = (masked_weight(w, soft, hard, (4, 1, 3, 3)) for w in (weight, last))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: tile_values(w, (2,)), "as many sides"),
        (lambda w: tile_values(w, (0, 1)), "at least 1"),
        (lambda w: mask_gradient(w[:1], w, (1, 1)), "The gradient has shape"),
        (lambda w: expand_tiles(torch.rand(3, 3), (2, 2), w.shape), "one number per block"),
        (
            lambda w: masked_weight(w, torch.rand(2, 2), torch.rand(2, 2) < 1, (2, 3), out=w.T),
            "out must be contiguous",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(TransportError, match=message):
        call(torch.rand(4, 6))
