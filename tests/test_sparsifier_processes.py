"""Two real processes with gloo, under DDP and FSDP2, prune as one does on the joined batches."""

import multiprocessing
import pickle

import numpy as np
import pytest
from sparsifier_processes import (
    CASES,
    RESUMED,
    Case,
    Run,
    work,
)

SAME_LOSS = 1e-5
"""Processes add gradients in another order; float32, fifty steps."""
SAME_SIZE = 1e-12
"""Sizes of parts are added in float64."""
SAME_OUTPUT = 1e-6
"""The same operations on the same weights, in float32."""
TIME_LIMIT = 400


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found, by job; they are started once."""
    context, folder = multiprocessing.get_context("spawn"), tmp_path_factory.mktemp("processes")
    started = [context.Process(target=work, args=(rank, 2, folder)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(TIME_LIMIT)
        process.kill()
    assert [process.exitcode for process in started] == [0, 0]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    return request.param, Run(CASES[request.param]).finish().record()


def require_same(trained, expected):
    (found_losses, found_masks, found_stats), (losses, masks, stats) = trained, expected
    assert found_losses == pytest.approx(losses, rel=SAME_LOSS)
    for step, (found_mask, mask) in enumerate(zip(found_masks, masks, strict=True)):
        for layer in mask:
            assert np.array_equal(found_mask[layer], mask[layer]), (step, layer)
    assert found_stats["phase"] == stats["phase"]
    for figure in ("kept_sizes", "densities", "costs"):
        assert found_stats[figure] == pytest.approx(stats[figure], rel=SAME_SIZE)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_masks_and_losses_are_those_of_one_process(case, found, way):
    name, expected = case
    for rank in (0, 1):
        require_same(found[rank]["train_both_ways"][name, way], expected)
    assert expected[2]["density"] < 1


@pytest.mark.parametrize("name", RESUMED)
def test_sharded_training_resumes_bit_for_bit(found, name):
    for first, again, _ in (each["resume_under_fsdp"][name] for each in found):
        assert again[0] == first[0]
        assert again[2] == first[2]
        require_same(again, first)


@pytest.mark.parametrize("name", RESUMED)
def test_one_process_goes_on_with_what_several_saved(found, name):
    first, _, states = found[0]["resume_under_fsdp"][name]
    alone = Run(CASES[name])
    alone.load(states)
    require_same(alone.finish().record(), first)


def test_different_masks_are_an_error_of_all_that_names_the_layer(found):
    for copied, spread in (each["corrupt"] for each in found):
        assert "different masks for layer stem.weight and" in copied
        assert "different masks for layer body.weight;" in spread


def test_blocks_are_not_cut(found):
    for outputs, balanced, (losses, masks, _) in (each["straddle"] for each in found):
        assert "body.weight of shape (32, 64, 3, 3) is cut for 2 processes at 16" in outputs
        assert "tile:64x1;" in outputs
        assert "at 32 of dimension 1, inside a block of its layout tile:16x1@16" in balanced
        expected = Run(Case("tile:64x1", (("flops", "40%"),))).finish().record()
        require_same((losses, masks, expected[2]), expected)


def test_a_copy_is_cut_where_no_block_is(found):
    for cuts, gathered, errors, refused in (each["sharded_copies"] for each in found):
        assert cuts["body.weight"] == 1
        assert {dim for name, dim in cuts.items() if name != "body.weight"} == {0}
        assert gathered == ["", "0", "1"]
        assert max(errors) < SAME_OUTPUT
        assert "inside a block of its layout tile:64x1@16" in refused


def test_a_loop_that_steps_another_optimizer_or_none_is_told_under_fsdp(found):
    for other, none, num_steps_done in (each["watch"] for each in found):
        assert "another optimizer (Adam) than the sparsifier's is stepped" in other
        assert "backward passes went by without a step of the optimizer" in none
        assert num_steps_done == 3


def test_closures_see_sharded_weights_as_backward_and_step_do(found):
    for plain, closed, lbfgs in (each["closures"] for each in found):
        assert closed[0] == plain[0]
        require_same(closed, plain)
        assert lbfgs["ddp"] == ""
        assert "LBFGS cannot step weights that fully_shard spreads" in lbfgs["fsdp"]
