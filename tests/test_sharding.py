"""Parts of weights: where they end, and which layouts may be cut there."""

import pytest
import torch

from cost_models import Layout
from spartan_planner.errors import TrainingError
from spartan_planner.training.sharding import Sharding, require_whole_blocks, whole_tensors


def sharding(size, num_parts, rank, dim=0):
    return Sharding(None, dim, -(-size // num_parts), num_parts, rank)


@pytest.mark.parametrize(
    ("size", "num_parts"), [(8, 2), (7, 2), (5, 4), (1, 3), (9, 1), (6, 4), (10, 8)]
)
@pytest.mark.parametrize("dim", [0, 1])
def test_parts_are_those_of_torch_chunk(size, num_parts, dim):
    whole = torch.arange(3.0 * size).reshape((size, 3) if dim == 0 else (3, size))
    chunks = whole.chunk(num_parts, dim)
    for rank in range(num_parts):
        part = sharding(size, num_parts, rank, dim).part(whole)
        expected = chunks[rank] if rank < len(chunks) else whole.narrow(dim, 0, 0)
        assert torch.equal(part, expected)


@pytest.mark.parametrize(
    ("size", "num_parts", "tile"), [(32, 2, 16), (48, 3, 8), (5, 4, 2), (9, 4, 3), (7, 1, 2)]
)
def test_parts_of_a_grid_are_the_tiles_of_parts(size, num_parts, tile):
    weight = torch.rand(size, 3)
    tiles = torch.nn.functional.pad(weight, (0, 0, 0, -size % tile)).reshape(-1, tile, 3).sum(1)
    found = []
    for rank in range(num_parts):
        own = sharding(size, num_parts, rank)
        part, grid = own.part(weight), own.part(tiles, tile)
        assert len(grid) == -(-len(part) // tile)
        found.append(grid)
    assert torch.equal(torch.cat(found), tiles)


WHOLE = [
    ("element", (7, 5), 0, 3),
    ("element", (6, 4, 3, 3), 1, 4),
    ("tile:16x1", (64, 8, 3, 3), 0, 4),
    ("tile:16x1", (64, 8, 3, 3), 1, 8),
    ("tile:16x1", (10, 8), 0, 1),
    ("tile:16x1", (1, 8), 0, 4),
    ("tile:16x4", (16, 8), 1, 2),
    ("tile:2x1", (5, 8), 0, 4),
    ("tile:16x1@16", (64, 32, 1, 1), 0, 4),
    ("2:4", (3, 8), 0, 2),
    ("2:4", (3, 8), 1, 2),
]
CUT = [
    ("tile:16x1", (64, 8, 3, 3), 0, 8),
    ("tile:16x1", (10, 8), 0, 2),
    ("tile:64x1", (24, 8), 0, 2),
    ("tile:16x4", (16, 8), 1, 4),
    ("tile:16x1", (16, 8, 3, 3), 2, 3),
    ("tile:16x1@16", (64, 32, 1, 1), 1, 2),
    ("2:4", (3, 8), 1, 4),
]


@pytest.mark.parametrize(("layout", "shape", "dim", "num_parts"), WHOLE)
def test_blocks_that_stay_whole_are_accepted(layout, shape, dim, num_parts):
    require_whole_blocks("a.weight", Layout.parse(layout), shape, dim, num_parts)


@pytest.mark.parametrize(("layout", "shape", "dim", "num_parts"), CUT)
def test_blocks_that_are_cut_are_refused(layout, shape, dim, num_parts):
    at = -(-shape[dim] // num_parts)
    with pytest.raises(TrainingError, match=f"a.weight .* {at} of dimension {dim}.*{layout};"):
        require_whole_blocks("a.weight", Layout.parse(layout), shape, dim, num_parts)


def test_what_is_not_spread_is_left_as_it_is():
    tree = {"a": [torch.ones(2)], "b": (1, "c", None)}
    found = whole_tensors(tree, is_kept=False)
    assert found["a"][0] is tree["a"][0]
    assert found["b"] == tree["b"]
