"""The closed-form derivative: gradcheck, against unrolling, limits."""

import pytest
import torch

from spartan_planner.errors import TransportError
from spartan_planner.transport import operators, soft_topk, soft_topk_gradient, solve_soft_topk

# Finite differences of gradcheck (eps 1e-6) and an unrolled bisection agree to about this.
AGREEMENT = 1e-6


def unrolled(values, costs, budget, beta):
    """Newton's iteration written out for autograd, from a price that is already right."""
    normalised = costs / costs.mean()
    target = budget / costs.mean()
    ratio = values / normalised
    with torch.no_grad():
        low, high = ratio.min() - 100 / beta, ratio.max() + 100 / beta
        for _ in range(200):
            middle = (low + high) / 2
            spent = (normalised * torch.sigmoid(beta * (ratio - middle))).sum()
            low, high = (middle, high) if spent > target else (low, middle)
        price = low
    for _ in range(3):
        mask = torch.sigmoid(beta * (ratio - price))
        slope = -beta * (normalised * mask * (1 - mask)).sum()
        price = price - ((normalised * mask).sum() - target) / slope
    return torch.sigmoid(beta * (ratio - price))


@pytest.mark.parametrize("beta", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("kind", ["one number", "per element", "per row"])
def test_gradcheck(beta, kind):
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    costs = {
        "one number": 2.0,
        "per element": torch.rand(6, generator=generator, dtype=torch.float64) + 0.1,
        "per row": torch.tensor([[0.1], [1.0], [7.0]], dtype=torch.float64),
    }[kind]
    budget = torch.as_tensor(costs, dtype=torch.float64).expand(3, 6).sum(1) * 0.4
    assert torch.autograd.gradcheck(lambda v: soft_topk(v, costs, budget, beta), (values,))


@pytest.mark.parametrize("beta", [1.0, 20.0])
def test_equals_the_unrolled_derivative(beta):
    generator = torch.Generator().manual_seed(4)
    values = torch.rand(40, generator=generator, dtype=torch.float64, requires_grad=True)
    costs = torch.rand(40, generator=generator, dtype=torch.float64) + 0.1
    upstream = torch.randn(40, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(unrolled(values, costs, 9.0, beta) @ upstream, values)
    (found,) = torch.autograd.grad(soft_topk(values, costs, 9.0, beta) @ upstream, values)
    torch.testing.assert_close(found, expected, rtol=AGREEMENT, atol=AGREEMENT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_segmented_form_equals_the_operator(dtype, tolerance):
    generator = torch.Generator().manual_seed(5)
    sizes, costs, beta, budget = (300_000, 20_000), (1.0, 6.0), 10.0, 50_000.0
    parts = [torch.rand(n, generator=generator, dtype=dtype) for n in sizes]
    upstream = [torch.randn(n, generator=generator, dtype=dtype) for n in sizes]
    masks = solve_soft_topk(parts, costs, budget, beta).masks
    found = torch.cat(soft_topk_gradient(masks, costs, beta, upstream))
    values = torch.cat(parts).double().requires_grad_()
    per_element = torch.cat(
        [torch.full((n,), c, dtype=torch.float64) for n, c in zip(sizes, costs, strict=True)]
    )
    mask = soft_topk(values, per_element, budget, beta)
    (expected,) = torch.autograd.grad(mask @ torch.cat(upstream).double(), values)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_long_rows_and_short_rows_agree(monkeypatch):
    values = torch.rand(2, 500, dtype=torch.float64, requires_grad=True)
    upstream = torch.rand(2, 500, dtype=torch.float64)
    results = []
    for limit in (10_000, 100):
        monkeypatch.setattr(operators, "_LONG_ROW", limit)
        mask = soft_topk(values, 3.0, 150.0, 12.0)
        (slope,) = torch.autograd.grad(mask, values, upstream)
        results.append((mask.detach(), slope))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


# Relative to the largest slope; the last bar is the rounding of the result to its own dtype.
@pytest.mark.parametrize(
    ("dtype", "bar"),
    [(torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)],
    ids=str,
)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1000, 20_000, 200_000])
@pytest.mark.parametrize("share", [1e-3, 0.5, 0.999, 1.0 - 1e-5])
def test_slopes_near_the_limits_have_all_digits(dtype, bar, rows, length, share):
    generator = torch.Generator().manual_seed(6)
    values = torch.rand(rows, length, generator=generator).to(dtype)
    upstream = torch.randn(rows, length, generator=generator).to(dtype)
    slopes = []
    for wide in (dtype, torch.float64):
        leaf = values.to(wide).requires_grad_()
        mask = soft_topk(leaf, 2.0, 2.0 * share * length, 30.0)
        slopes.append(torch.autograd.grad(mask, leaf, upstream.to(wide))[0].double())
    worst = (slopes[0] - slopes[1]).abs().amax(1) / slopes[1].abs().amax(1)
    assert float(worst.max()) <= bar


def test_hard_masks_have_no_derivative():
    masks = [torch.tensor([1.0, 0.0, 1.0])]
    (slope,) = soft_topk_gradient(masks, [2.0], 10.0, [torch.ones(3)])
    assert (slope == 0).all()


@pytest.mark.parametrize("budget", [0.0, 5.0])
def test_limits_of_the_budget_have_no_derivative(budget):
    values = torch.rand(5, requires_grad=True)
    (slope,) = torch.autograd.grad(soft_topk(values, 1.0, budget, 3.0).sum(), values)
    assert (slope == 0).all()


def test_shapes_must_match():
    with pytest.raises(TransportError, match="gradient of its own shape"):
        soft_topk_gradient([torch.rand(3)], [1.0], 1.0, [torch.rand(4)])
    with pytest.raises(TransportError, match=r"masks have 2 shapes.*gradients 1 shapes"):
        soft_topk_gradient([torch.rand(3)] * 2, [1.0] * 2, 1.0, [torch.rand(3)])


@pytest.mark.parametrize("with_tiles", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradients_of_elements_are_turned_in_place(dtype, tolerance, with_tiles):
    generator = torch.Generator().manual_seed(6)
    sizes, costs, beta = (300_000, 20_000), (1.0, 6.0), 10.0
    theta = [torch.randn(n, generator=generator, dtype=dtype) for n in sizes]
    theta[0][:5] = 0.0
    soft = solve_soft_topk([t.abs() for t in theta], costs, 50_000.0, beta)
    arrived = [torch.randn(n, generator=generator, dtype=dtype) for n in sizes]
    by_mask = [g * t for g, t in zip(arrived, theta, strict=True)]
    by_value = soft_topk_gradient(soft.masks, costs, beta, by_mask)
    expected = [
        g * m + t.sign() * v
        for g, m, t, v in zip(arrived, soft.masks, theta, by_value, strict=True)
    ]
    given = [arrived[0].clone(), by_mask[1] if with_tiles else arrived[1].clone()]
    weights = [theta[0], None if with_tiles else theta[1]]
    back = [torch.empty_like(theta[0]), None]
    found = soft_topk_gradient(soft.masks, costs, beta, given, weights=weights, put_back=back)
    assert torch.equal(back[0], theta[0])
    assert found[0].data_ptr() == given[0].data_ptr()
    # Sums over other chunks round otherwise.
    close = {"rtol": tolerance, "atol": tolerance * float(expected[0].abs().max())}
    torch.testing.assert_close(found[0], expected[0], **close)
    torch.testing.assert_close(found[1], by_value[1] if with_tiles else expected[1], **close)


@pytest.mark.parametrize(
    ("gradient", "weights", "costs", "message"),
    [
        (torch.ones(6), [torch.ones(5)], [1.0], "came with a weight of shape"),
        (torch.ones(12)[::2], [torch.ones(6)], [1.0], "turned in place"),
        (torch.ones(6), [torch.ones(6)] * 2, [1.0], "1 gradients came with 2 weights"),
        (torch.ones(6), [torch.ones(6)], [torch.rand(6) + 1], "needs one cost"),
    ],
)
def test_weights_that_do_not_belong_are_refused(gradient, weights, costs, message):
    with pytest.raises(TransportError, match=message):
        soft_topk_gradient([torch.rand(6)], costs, 1.0, [gradient], weights=weights)


@pytest.mark.parametrize(
    ("weight", "target"),
    [(torch.ones(6), torch.ones(5)), (torch.ones(6), torch.ones(12)[::2]), (None, torch.ones(6))],
)
def test_where_weights_cannot_be_put_back_is_told(weight, target):
    masks, gradients = [torch.full((6,), 0.5)], [torch.ones(6)]
    with pytest.raises(TransportError, match="put back into a contiguous tensor of its size"):
        soft_topk_gradient(masks, [1.0], 1.0, gradients, weights=[weight], put_back=[target])
