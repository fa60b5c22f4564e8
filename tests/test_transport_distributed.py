"""Two real processes with gloo: shards of the same tensors give the masks of the whole."""

import math
import multiprocessing
import pickle

import pytest
import torch
import torch.distributed as dist

from spartan_planner.errors import TransportError
from spartan_planner.transport import (
    packing,
    sampling,
    soft_topk_gradient,
    solve_hard_topk,
    solve_price,
    solve_soft_topk,
)

COSTS, BETA, NAMES = (1.0, 3.0, 2.0), 12.0, ("a", "b", "c")


def whole_values():
    generator = torch.Generator().manual_seed(10)
    values = [torch.rand(n, generator=generator) for n in (9_000, 4_001, 10)]
    # Many ties, on both ranks and across tensors.
    return [(8 * v).round() / 8 * c for v, c in zip(values, COSTS, strict=True)]


def shards(values, rank):
    # Unequal shards, and a tensor that lives on one rank only.
    cuts = [len(values[0]) // 3, len(values[1]) - 5, len(values[2])]
    return [v[:cut] if rank == 0 else v[cut:] for v, cut in zip(values, cuts, strict=True)]


def budget_of(share):
    return math.floor(
        share * sum(v.numel() * c for v, c in zip(whole_values(), COSTS, strict=True))
    )


def costs_with_a_zero(rank):
    costs = torch.ones(5)
    costs[2] = float(rank == 0)
    return [torch.rand(5)], [costs]


def whole_numbers(rank):
    return [torch.rand(5) if rank else torch.arange(5)], [1.0]


def one_element(rank):
    ramp = torch.arange(1.0, 2.0 if rank == 0 else 6.0)
    return [ramp], [ramp]


def nothing_and_elements(rank):
    ramp = torch.arange(1.0, 6.0)[: 5 * rank]
    return [ramp], [ramp if rank else 1.0]


def too_many_tensors(rank):
    return [torch.rand(5)] * (1 + rank), [1.0] * (1 + rank)


ODD_CASES = {
    case.__name__: case
    for case in (
        costs_with_a_zero,
        whole_numbers,
        too_many_tensors,
        one_element,
        nothing_and_elements,
    )
}


def answer_to(case, rank, group):
    """The masks, or what was said; hard selection takes no cost per element across ranks."""
    values, costs = case(rank)
    said = []
    for solve in (
        lambda: solve_soft_topk(values, costs, 4.0, 5.0, process_group=group).masks[0].numpy(),
        lambda: solve_hard_topk(values, costs, 4.0, process_group=group).masks[0].numpy(),
    ):
        try:
            said.append(solve())
        except TransportError as error:
            said.append(str(error))
    return said


def work(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    group, own = dist.group.WORLD, shards(whole_values(), rank)
    answers = {}
    for sample in (1 << 16, 128):
        sampling.SAMPLE_BLOCKS = packing.PACKED_BLOCKS = sample
        for share in (0.0, 0.1, 0.5, 1.0):
            budget = budget_of(share)
            hard = solve_hard_topk(own, COSTS, budget, process_group=group)
            soft = solve_soft_topk(own, COSTS, budget, BETA, process_group=group)
            price = solve_price(own, COSTS, budget, BETA, process_group=group)
            upstream = [value.cos() for value in own]
            slopes = soft_topk_gradient(soft.masks, COSTS, BETA, upstream, process_group=group)
            answers[sample, share] = (
                [m.numpy() for m in hard.masks],
                hard.num_kept,
                [m.numpy() for m in soft.masks],
                soft.price,
                price.price,
                [s.numpy() for s in slopes],
            )
    broken = [v.clone() for v in own]
    if rank == 1:
        broken[1][0] = math.nan
    refused = ""
    try:
        solve_soft_topk(broken, COSTS, 5.0, BETA, names=NAMES, process_group=group)
    except TransportError as error:
        refused = str(error)
    odd = {name: answer_to(case, rank, group) for name, case in ODD_CASES.items()}
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps((answers, refused, odd)))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    context = multiprocessing.get_context("spawn")
    folder = tmp_path_factory.mktemp("ranks")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("sample", [1 << 16, 128])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_masks_are_those_of_the_whole(ranks, sample, share):
    values = whole_values()
    hard = solve_hard_topk(values, COSTS, budget_of(share))
    soft = solve_soft_topk(values, COSTS, budget_of(share), BETA)
    slopes = soft_topk_gradient(soft.masks, COSTS, BETA, [v.cos() for v in values])
    for rank in (0, 1):
        kept, count, masks, price, price_alone, own_slopes = ranks[rank][0][sample, share]
        assert count == hard.num_kept
        for found, expected in zip(kept, shards(hard.masks, rank), strict=True):
            assert torch.equal(torch.from_numpy(found), expected)
        assert price == pytest.approx(soft.price, rel=1e-5)
        assert price_alone == pytest.approx(soft.price, rel=1e-5)
        for found, expected in zip(masks, shards(soft.masks, rank), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-6)
        for found, expected in zip(own_slopes, shards(slopes, rank), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("key", [(1 << 16, 0.1), (128, 0.1), (1 << 16, 0.5)])
def test_both_ranks_have_the_same_bits(ranks, key):
    first, second = (ranks[rank][0][key] for rank in (0, 1))
    assert first[1] == second[1]
    assert first[3] == second[3]


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("costs_with_a_zero", ("of rank 1 were refused", "a cost tensor with an element")),
        ("whole_numbers", ("are torch.int64", "of rank 0 were refused")),
        ("too_many_tensors", (r"came with [1, 2] value tensors",) * 2),
    ],
)
def test_what_one_rank_refuses_all_refuse(ranks, case, messages):
    for rank, message in enumerate(messages):
        assert all(message in said for said in ranks[rank][2][case])


def test_a_shard_of_one_element_has_a_cost_per_element(ranks):
    soft = [ranks[rank][2]["one_element"][0] for rank in (0, 1)]
    ramps = [one_element(rank)[0][0] for rank in (0, 1)]
    ramp = torch.cat(ramps)
    (whole,) = solve_soft_topk([ramp], [ramp], 4.0, 5.0).masks
    found = torch.cat([torch.from_numpy(mask) for mask in soft])
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-7)
    for rank in (0, 1):
        assert "takes one cost per tensor" in ranks[rank][2]["one_element"][1]


def test_a_rank_without_elements_joins_one_with_costs_of_its_own(ranks):
    (ramp,), _ = nothing_and_elements(1)
    (whole,) = solve_soft_topk([ramp], [ramp], 4.0, 5.0).masks
    found = torch.from_numpy(ranks[1][2]["nothing_and_elements"][0])
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-7)
    for rank in (0, 1):
        assert "takes one cost per tensor" in ranks[rank][2]["nothing_and_elements"][1]


def test_a_bad_value_on_one_rank_is_named_on_both(ranks):
    for rank in (0, 1):
        assert ranks[rank][1].startswith("Values of b are NaN or infinite")
