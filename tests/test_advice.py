"""Advice on layouts: what the figures are, what is said, and what could not be told."""

import io
from dataclasses import replace

import pytest
from builders import conv_shape, linear_shape, profile_of, timing_of, workload_of
from rich.console import Console

from cost_models import Fact, LayerShape, LayerWorkload, Layout, Sample, SparseTiming, cost_model
from cost_models.roofline import dense_ms, n_m_ms
from spartan_planner.advice import DENSITIES, advise
from spartan_planner.granularities import WORTHWHILE
from spartan_planner.report import advice_table

ROUNDING = 1e-12
"""Relative; sums of a few float64."""

TILE, OTHER = "tile:32x1@16", "tile:64x1@16"
CONV, POINT = conv_shape(64, 64), conv_shape(64, 64, 1)
# Of six dimensions: no linear layer on such activations has a lowered form.
HEAD = LayerShape("linear", (10, 64), (1, 1, 1, 1, 1, 64), has_bias=True)
"""Of a rank that lowering has no form for."""
LAYERS = (
    LayerWorkload("a", CONV, 64),
    LayerWorkload("b", conv_shape(64, 128), 64),
    LayerWorkload("c", POINT, 64),
    LayerWorkload("head", HEAD, 1),
)
WORKLOAD = workload_of(*LAYERS)


def sparse(shape, text, fixed, per_density):
    num_blocks = Layout.parse(text).num_whole_blocks(shape.weight_shape)
    per_block = per_density / num_blocks
    return SparseTiming(text, fixed, per_block, 0.0, (Sample(1, fixed + per_block),))


def timing(shape, dense, *forms):
    return replace(timing_of(shape, (), dense), sparse=forms)


PROFILE = profile_of(
    timing(CONV, 2.0, sparse(CONV, TILE, 0.2, 2.4)),
    timing(LAYERS[1].shape, 4.0, sparse(LAYERS[1].shape, TILE, 0.4, 3.2)),
    timing(POINT, 1.0, sparse(POINT, TILE, 0.9, 2.0), sparse(POINT, OTHER, 0.5, 1.0)),
    timing(HEAD, 0.5),
    run_overhead_ms=0.5,
)


def row_of(advice, layer_class, layout):
    (row,) = (r for r in advice.rows if (r.layer_class, r.layout) == (layer_class, layout))
    return row


def test_figures_of_a_class_are_those_of_its_layers_together():
    advice = advise(PROFILE, WORKLOAD)
    row = row_of(advice, "conv", TILE)
    assert (row.num_layers, row.source) == (2, "measured")
    assert advice.dense_ms == pytest.approx(8.0)
    assert row.dense_share == pytest.approx(6 / 8)
    # (2 - 0.2) / 2.4 and (4 - 0.4) / 3.2, which is above 1: it always pays.
    assert row.break_even == pytest.approx((0.75, 0.875, 1.0), rel=ROUNDING)
    # At 10 % the first keeps one of its four blocks at least, the other one of eight.
    expected = {0.5: 6 / (1.4 + 2.0), 0.25: 6 / (0.8 + 1.2), 0.1: 6 / (0.8 + 0.8)}
    assert row.speedups == pytest.approx(expected, rel=ROUNDING)


def test_rows_stand_by_share_of_time_and_then_by_speed():
    advice = advise(PROFILE, WORKLOAD)
    assert [(row.layer_class, row.layout) for row in advice.rows] == [
        ("conv", TILE),
        ("pointwise", OTHER),
        ("pointwise", TILE),
    ]
    assert advice.dense_only_share == pytest.approx(1 / 8)
    assert advice.not_priced == ()


def test_sentences_say_what_pays_and_what_does_not():
    advice = advise(PROFILE, WORKLOAD)
    conv, other, tile, *granularities, dense = advice.sentences()
    assert len(granularities) == 4
    assert conv.startswith("tile:32x1@16 for conv layers (75% of the time) pays at half")
    assert "1.8x at 50%, 3.0x at 25%, 3.8x at 17%" in conv
    assert "pays only at 25% density or less: 1.3x at 25%." in other
    assert tile.endswith("does not pay: 0.71x at 25% density.")
    assert dense == "12% of the time no layout can reduce."


def test_what_was_not_measured_is_said_or_marked_as_estimated():
    unknown = LayerWorkload("new", conv_shape(96, 96), 64)
    advice = advise(PROFILE, workload_of(*LAYERS, unknown))
    told = [row for row in advice.rows if row.source == "estimated"]
    if not told:
        assert any("new" in reason for reason in advice.not_priced)
    else:
        assert all("by estimate" in row.sentence() for row in told)


def test_nothing_priced_is_said_in_words():
    advice = advise(PROFILE, workload_of(LAYERS[3]))
    assert advice.rows == ()
    assert advice.sentences()[0].startswith("On made-up no layer of small can be lowered")
    assert advice.dense_only_share == 1


def test_where_no_layer_can_be_priced_no_figure_is_made_up():
    half = LayerWorkload("h", replace(HEAD, dtype="float16"), 1)
    other = replace(half, name="other")
    advice = advise(PROFILE, workload_of(half, other))
    assert (advice.dense_ms, advice.dense_only_share, advice.rows) == (None, None, ())
    first, *reasons = advice.sentences()
    assert first == "On made-up no layer of small can be priced, so nothing is told of what pays."
    assert len(reasons) == 1
    assert "h and 1 more: the profile states no peak rate for float16" in reasons[0]
    assert "0%" not in "".join(advice.sentences())


def test_other_granularities_are_judged_with_their_reason():
    told = {item.name: item for item in advise(PROFILE, WORKLOAD).granularities}
    assert list(told) == ["element", "tile:32x1", "tile:32x1@16", "2:4"]
    assert told["element"].layer_classes == ("conv", "pointwise", "vector")
    assert told["element"].dense_share == pytest.approx(7.5 / 8)
    assert told["tile:32x1@16"].layer_classes == ("vector",)
    for item in told.values():
        assert "does not pay: " in item.sentence()
        assert "multiplies by the zeros" in item.sentence()


def test_n_m_pays_where_the_device_has_hardware_for_it():
    facts = replace(PROFILE.facts, sparse_speedups={"2:4": Fact(2.0, "data_sheet", "made up")})
    profile = replace(profile_of(), facts=facts)
    layer = LayerWorkload("w", linear_shape(1024, 1024, (256,)), 256)
    (judged,) = [i for i in advise(profile, workload_of(layer)).granularities if i.name == "2:4"]
    dense = dense_ms(layer.shape, profile.roofline, facts)
    pruned = n_m_ms(layer.shape, "2:4", profile.roofline, facts)
    assert judged.speedup == pytest.approx(dense / pruned, rel=ROUNDING)
    assert 1.05 < judged.speedup < 2
    assert "2:4 for linear layers" in judged.sentence()
    assert "pays, by estimate: 1." in judged.sentence()
    assert "expect 0.5 to 2 times the estimated times" in judged.sentence()


def test_the_density_really_kept_is_shown():
    advice = advise(PROFILE, WORKLOAD)
    assert row_of(advice, "pointwise", TILE).kept == {0.5: 0.5, 0.25: 0.25, 0.1: 0.25}
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(advice_table(advice))
    assert "0.71x (25%)" in capture.get()


def test_estimated_rows_show_the_band():
    advice = advise(profile_of(), workload_of(LAYERS[0]))
    assert {row.error_band for row in advice.rows} == {(0.5, 2.0)}
    assert all("expect 0.5 to 2 times the estimate" in row.sentence() for row in advice.rows)


def test_layers_that_may_not_be_pruned_are_left_out():
    fixed = replace(LAYERS[0], prunable=False, not_prunable_because="sliced")
    assert row_of(advise(PROFILE, workload_of(fixed, LAYERS[1])), "conv", TILE).num_layers == 1


def test_the_figures_agree_with_the_cost_model():
    row = row_of(advise(PROFILE, workload_of(LAYERS[0])), "conv", TILE)
    cost = cost_model("latency").linear_cost(LAYERS[0], Layout.parse(TILE), PROFILE)
    for density in DENSITIES:
        kept = max(1.0, density * 4)
        assert row.speedups[density] == pytest.approx(cost.dense / cost.sparse(kept))
        assert row.pays(density) == (row.speedups[density] >= WORTHWHILE)


def test_the_table_has_a_row_for_every_piece_of_advice():
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(advice_table(advise(PROFILE, WORKLOAD)))
    text = capture.get()
    for part in ("2 conv", "88% (75-100)", "0.71x", "all else"):
        assert part in text
