"""Cases of the Triton kernels, against torch operations on the CPU and the definition by sorting.

Run by test_transport_triton_passes.py: on a GPU where there is one, else under Triton's
interpreter, which must be chosen before Triton is imported and hence needs a process of its own.
"""

import math

import pytest
import test_transport_hard
import test_transport_soft
import test_transport_tiles
import torch

from spartan_planner.errors import TransportError
from spartan_planner.transport import (
    SelectionStatus,
    backend,
    mask_gradient,
    masked_weight,
    soft_topk_gradient,
    solve_hard_topk,
    solve_price,
    solve_soft_topk,
    tile_values,
    triton_gradient,
    triton_hard,
    triton_passes,
    triton_tiles,
    use_triton,
    weight_gradient,
)
from spartan_planner.transport.tiles import tile_layout

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The budget as promised; masks by another sigmoid, times beta z; half precision rounds.
BUDGET = 1e-6
MASK = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture
def launches(monkeypatch):
    """Record the names of the kernels that are launched."""
    names = []
    for module in (triton_passes, triton_hard, triton_gradient, triton_tiles):
        plain = module.launch

        def counted(kernel, *rest, plain=plain, **constants):
            names.append(kernel.fn.__name__)
            plain(kernel, *rest, **constants)

        monkeypatch.setattr(module, "launch", counted)
    return names


@pytest.fixture(autouse=True)
def plain_again():
    yield
    use_triton(None)


def moved(tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


def both(call, *lists):
    """Return what torch operations on the CPU and what the kernels find, on the CPU."""
    use_triton(False)
    plain = call(*lists)
    use_triton(True)
    return plain, call(*(moved(tensors) for tensors in lists))


def many_segments(dtypes=(torch.float32,)):
    generator = torch.Generator().manual_seed(8)
    sizes = [1, 0, 700, 5000, 3, 9, 2, 30]
    values = [torch.rand(n, generator=generator) for n in sizes]
    return [v.to(dtypes[i % len(dtypes)]) for i, v in enumerate(values)]


def costs_of(values):
    return [1.0 + index % 3 for index in range(len(values))]


def total_of(values):
    return sum(c * v.numel() for v, c in zip(values, costs_of(values), strict=True))


@pytest.mark.parametrize(
    ("kind", "dtype", "beta"),
    [
        *((kind, torch.float32, 10.0) for kind in test_transport_soft.KINDS),
        ("random", torch.float32, 0.1),
        ("equal", torch.float32, 300.0),
        ("random", torch.bfloat16, 10.0),
        ("ties", torch.float16, 10.0),
    ],
)
def test_soft(kind, dtype, beta):
    values = test_transport_soft.random_values((900, 501, 1), dtype)
    values = [test_transport_soft.KINDS[kind](v) for v in values]
    budget = 0.2 * total_of(values)
    plain, fused = both(lambda v: solve_soft_topk(v, costs_of(v), budget, beta), values)
    assert fused.status is SelectionStatus.CONVERGED
    assert fused.relative_budget_error <= BUDGET
    assert fused.price == pytest.approx(plain.price, rel=1e-5, abs=1e-5 / beta)
    for a, b in zip(plain.masks, fused.masks, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=MASK[dtype], atol=MASK[dtype])
    if dtype == torch.float32:
        spent = test_transport_soft.spent([m.cpu() for m in fused.masks], costs_of(values))
        assert abs(spent / budget - 1) <= BUDGET


def test_soft_is_one_launch_a_read_and_a_dtype(launches):
    values = many_segments((torch.float32, torch.bfloat16))
    budget = 0.3 * total_of(values)
    plain, fused = both(lambda v: solve_soft_topk(v, costs_of(v), budget, 20.0), values)
    assert fused.price == pytest.approx(plain.price, rel=1e-6)
    launches.clear()
    warm = solve_soft_topk(
        moved(values), costs_of(values), budget, 20.0, initial_price=fused.price * 1.0001
    )
    assert warm.num_iterations <= 3
    assert warm.relative_budget_error <= BUDGET
    assert launches.count("write_kernel") == 2
    assert launches.count("sums_kernel") == 2 * launches.count("step_kernel") == 6


def test_a_sample_starts_the_search(monkeypatch, launches):
    monkeypatch.setattr(triton_passes, "SAMPLE_BLOCKS", 2000)
    triton_passes.sample_table.cache_clear()
    values = many_segments()
    budget = 0.3 * total_of(values)
    plain, fused = both(lambda v: solve_soft_topk(v, costs_of(v), budget, 20.0), values)
    triton_passes.sample_table.cache_clear()
    assert fused.price == pytest.approx(plain.price, rel=1e-6)
    assert fused.num_iterations <= 3
    assert launches.count("gather_kernel") == 1


def test_price_alone_and_a_hopeless_start():
    values = many_segments()
    budget = 0.3 * total_of(values)
    plain, fused = both(lambda v: solve_price(v, costs_of(v), budget, 20.0), values)
    assert fused.price == pytest.approx(plain.price, rel=1e-6)
    lost = solve_soft_topk(moved(values), costs_of(values), budget, 20.0, initial_price=-1e9)
    assert lost.relative_budget_error <= BUDGET


def test_what_float32_does_not_resolve_is_left_to_torch():
    values = [torch.full((500,), 0.3), torch.full((20,), 0.3)]
    budget = 1e-3 * total_of(values)
    plain, fused = both(lambda v: solve_soft_topk(v, costs_of(v), budget, 1e8), values)
    assert (fused.status, fused.price) == (SelectionStatus.CONVERGED, pytest.approx(plain.price))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_limits(share):
    values = moved([torch.rand(40), torch.rand(2, 3)])
    use_triton(True)
    budget = share * total_of(values)
    assert all((m == share).all() for m in solve_soft_topk(values, [1, 2], budget, 5.0).masks)
    assert all((m == share).all() for m in solve_hard_topk(values, [1, 2], budget).masks)


@pytest.mark.parametrize("solve", [solve_soft_topk, solve_hard_topk], ids=["soft", "hard"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_the_tensor_with_a_bad_value_is_named(solve, bad):
    values = moved([torch.ones(10), torch.tensor([1.0, bad, 2.0])])
    use_triton(True)
    beta = (1.0,) if solve is solve_soft_topk else ()
    with pytest.raises(TransportError, match=r"head\.weight are NaN or infinite"):
        solve(values, (1.0, 1.0), 5.0, *beta, names=["conv.weight", "head.weight"])


@pytest.mark.parametrize(
    ("kind", "dtype", "sample"),
    [
        *((kind, torch.float32, 256) for kind in test_transport_hard.KINDS),
        ("ties across tensors", torch.float32, 1 << 16),
        ("random", torch.bfloat16, 256),
        ("equal", torch.float16, 256),
        ("many orders", torch.float16, 256),
    ],
)
def test_hard_equals_the_definition(monkeypatch, kind, dtype, sample):
    monkeypatch.setattr(triton_hard, "SAMPLE_BLOCKS", sample)
    monkeypatch.setattr(triton_passes, "SAMPLE_BLOCKS", sample)
    triton_passes.sample_table.cache_clear()
    generator = torch.Generator().manual_seed(1)
    costs = (3, 1, 7)
    values = [
        test_transport_hard.KINDS[kind](torch.randn(n, generator=generator).abs().to(dtype), c)
        for n, c in zip((3000, 1501, 3), costs, strict=True)
    ]
    # Some of many orders overflow in half precision.
    values = [v.nan_to_num(posinf=6e4) for v in values]
    total = sum(v.numel() * c for v, c in zip(values, costs, strict=True))
    use_triton(True)
    for share in (1e-3, 0.3):
        budget = math.floor(share * total)
        found = solve_hard_topk(moved(values), costs, budget)
        masks, kept = test_transport_hard.by_sorting(values, costs, budget)
        assert found.num_kept == kept
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found.masks, masks, strict=True))
    triton_passes.sample_table.cache_clear()


def test_hard_is_one_read_and_one_write(launches):
    values = many_segments()
    budget = 0.3 * total_of(values)
    plain, fused = both(lambda v: solve_hard_topk(v, costs_of(v), budget), values)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(plain.masks, fused.masks, strict=True))
    assert (plain.threshold, plain.cost) == (fused.threshold, fused.cost)
    assert launches == ["threshold_kernel", "count_kernel", "threshold_kernel", "select_kernel"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient(launches, dtype):
    masks = many_segments((dtype,))
    arriving = [torch.randn(m.shape).to(dtype) for m in masks]
    plain, fused = both(
        lambda m, g: soft_topk_gradient(m, costs_of(masks), 9.0, g), masks, arriving
    )
    for a, b in zip(plain, fused, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=MASK[dtype] * 5, atol=MASK[dtype] * 5)
    assert launches == ["gradient_sums_kernel", "gradient_kernel"]


def test_gradient_of_element_layouts_forms_g_and_adds_the_direct_part():
    masks = many_segments()
    arriving, weights = ([torch.randn(m.shape) for m in masks] for _ in range(2))
    costs = [cost * sum(m.numel() for m in masks) / total_of(masks) for cost in costs_of(masks)]
    use_triton(False)
    products = [g * w for g, w in zip(arriving, weights, strict=True)]
    slopes = soft_topk_gradient(masks, costs, 9.0, products)
    on_device = [moved(tensors) for tensors in (masks, [g.clone() for g in arriving], weights)]
    found = triton_gradient.soft_gradients(
        *on_device[:2], costs, 9.0, weights=on_device[2], outputs=on_device[1]
    )
    for g, m, w, slope, own in zip(arriving, masks, weights, slopes, found, strict=True):
        torch.testing.assert_close(own.cpu(), g * m + w.sign() * slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiles_of_many_weights(launches, dtype):
    shapes, tiles = zip(*test_transport_tiles.CASES, strict=True)
    generator = torch.Generator().manual_seed(6)

    def random(sizes):
        return [torch.randn(size, generator=generator).to(dtype) for size in sizes]

    weights, gradients = random(shapes), random(shapes)
    layouts = [tile_layout(shape, tile) for shape, tile in test_transport_tiles.CASES]
    grids = [layout.grid for layout in layouts]
    soft, slopes = random(grids), random(grids)
    hard = [grid > 0 for grid in random(grids)]
    use_triton(False)
    expected = [
        (
            tile_values(w, tile),
            mask_gradient(g.float(), w.float(), tile),
            masked_weight(w, m, h, tile),
            weight_gradient(g, w, m, s, tile),
        )
        for w, g, m, h, s, tile in zip(weights, gradients, soft, hard, slopes, tiles, strict=True)
    ]
    device = [moved(tensors) for tensors in (weights, gradients, soft, hard, slopes)]
    sums = triton_tiles.tile_sums(device[0], None, layouts)
    products = triton_tiles.tile_sums(device[0], device[1], layouts)
    masked, turned = ([torch.empty_like(w) for w in device[0]] for _ in range(2))
    launches.clear()
    triton_tiles.tile_products(device[0], device[2], device[3], layouts, masked)
    triton_tiles.tile_products(device[1], device[2], device[4], layouts, turned, weights=device[0])
    # Tiles that are single elements, and all others.
    assert launches == ["tile_product_kernel"] * 4
    for want, *found in zip(expected, sums, products, masked, turned, strict=True):
        for a, b in zip(want, found, strict=True):
            torch.testing.assert_close(a, b.cpu(), rtol=MASK[dtype], atol=MASK[dtype] * 2)


def test_the_public_functions_use_the_kernels(launches):
    weight, gradient = torch.randn(10, 7, 3, 3), torch.randn(10, 7, 3, 3)
    tile, grid = (4, 2, 3, 3), (3, 4, 1, 1)
    soft, hard = torch.rand(grid), torch.rand(grid) < 0.5
    for call, expected in (
        (lambda t: tile_values(t[0], tile), "tile_sums_kernel"),
        (lambda t: mask_gradient(t[1], t[0], tile), "tile_sums_kernel"),
        (lambda t: masked_weight(t[0], t[2], t[3], tile), "tile_product_kernel"),
        (lambda t: weight_gradient(t[1], t[0], t[2], t[2], tile), "tile_product_kernel"),
    ):
        launches.clear()
        plain, fused = both(call, [weight, gradient, soft, hard])
        torch.testing.assert_close(plain, fused.cpu(), rtol=1e-5, atol=1e-5)
        assert launches == [expected]


def test_float64_and_costs_per_element_are_left_to_torch(launches):
    use_triton(True)
    assert not backend.reads_fused(torch.rand(3, dtype=torch.float64, device=DEVICE))
    values = [torch.rand(50, device=DEVICE)]
    result = solve_soft_topk(values, [torch.rand(50, device=DEVICE) + 0.1], 5.0, 3.0)
    assert result.status is SelectionStatus.CONVERGED
    assert not launches
