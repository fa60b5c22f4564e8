"""plan.yaml: round trip, and what is refused."""

from dataclasses import replace

import pytest
import yaml
from builders import small_plan
from hypothesis import given
from hypothesis import strategies as st

from cost_models import DocumentError, write_document
from cost_models.documents import dump_document, parse_document
from spartan_planner.planning import Plan, read_plan

PLAN = small_plan()


def changed(path: str, value: object) -> str:
    """The text of the plan with one value replaced (or, where absent, added)."""
    tree = yaml.safe_load(dump_document(PLAN))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = tree
    for key in parents:
        place = place[key]
    place[last] = value
    return yaml.safe_dump(tree)


def test_plan_survives_its_file(tmp_path):
    write_document(tmp_path / "plan.yaml", PLAN)
    assert read_plan(tmp_path / "plan.yaml") == PLAN


def test_sparse_layers_and_predictions():
    assert PLAN.sparse_layers == PLAN.layers[:1]
    assert PLAN.budget is PLAN.budgets[0]
    assert PLAN.predicted("latency") == 0.5 + (0.125 + 0.5 * 2.5) + 1.0
    assert PLAN.predicted("latency", {"a.weight": 8.0}) == 0.5 + 4.0 + 1.0
    assert PLAN.lowered_layers() == {"a.weight"}
    assert PLAN.lowered_layers({"a.weight": 8.0}) == frozenset()
    assert PLAN.predicted("flops", {"a.weight": 1.0}) == 500.0 + 1000.0


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("colour", "red", "colour"),
        ("schema_version", 2, "schema_version"),
        ("schema_version", "1", "schema_version"),
        ("model", None, "model"),
        ("model", 5, "model"),
        ("input_shapes", [[1, "3"]], "input_shapes[0][1]"),
        ("input_shapes", 3, "input_shapes"),
        ("profile.yardstick_ms", "fast", "profile.yardstick_ms"),
        ("profile.host", "x", "profile.host"),
        ("budgets", [], "the top"),
        ("budgets.0.asked", 1.0, "the top"),
        ("budgets.0.asked", None, "the top"),
        ("budgets.0.asked", float("nan"), "budgets[0].asked"),
        ("budgets.0.predicted", float("inf"), "budgets[0].predicted"),
        ("retained_value", "most", "retained_value"),
        ("schedule.beta", 0.0, "schedule"),
        ("schedule.frozen_fraction", 0.9, "schedule"),
        ("schedule.budget_fraction", -0.1, "schedule"),
        ("layers.0.layout", "diagonal", "layers[0]"),
        ("layers.0.num_kept_blocks", 0, "layers[0]"),
        ("layers.0.num_kept_blocks", 9, "layers[0]"),
        ("layers.0.num_kept_blocks", 2.5, "layers[0].num_kept_blocks"),
        ("layers.0.kept_size", 3.5, "layers[0]"),
        ("layers.0.min_kept_blocks", 4, "layers[0]"),
        ("layers.0.min_kept_blocks", -1, "layers[0]"),
        ("layers.1.min_kept_blocks", 1, "layers[1]"),
        ("layers.0.density", 1.5, "layers[0]"),
        ("layers.0.costs.latency.fixed", -1.0, "layers[0].costs.latency"),
        ("layers.0.costs.latency.slope", 1.0, "layers[0].costs.latency.slope"),
        ("layers.0.costs.latency", 1.0, "layers[0].costs.latency"),
        ("layers.1.costs", {}, "the top"),
        ("layers.1.name", "a.weight", "the top"),
    ],
)
def test_hostile_plan_is_refused_with_its_place(tmp_path, path, value, where):
    file = tmp_path / "plan.yaml"
    file.write_text(changed(path, value))
    with pytest.raises(DocumentError) as caught:
        read_plan(file)
    assert str(caught.value).startswith(f"plan {file}: at {where}: found ")


@pytest.mark.parametrize(
    "field", sorted({*yaml.safe_load(dump_document(PLAN))} - {"warnings", "groups", "retained_by"})
)
def test_missing_field_is_named(field):
    tree = yaml.safe_load(dump_document(PLAN))
    del tree[field]
    with pytest.raises(DocumentError, match=f"at {field}: .*field required"):
        parse_document(yaml.safe_dump(tree), Plan, "plan")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("dense")
)
TREES = st.recursive(
    SCALARS, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=5), t, max_size=3)
)


def paths(tree: object, prefix: str = "") -> list[str]:
    """Every place in a tree, as text."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in items:
        found.append(f"{prefix}{key}")
        if isinstance(value, dict | list) and "weight" not in str(key):
            found += paths(value, f"{prefix}{key}.")
    return found


@given(st.sampled_from(paths(yaml.safe_load(dump_document(PLAN)))), TREES)
def test_no_value_anywhere_raises_anything_else(path, value):
    try:
        plan = parse_document(changed(path, value), Plan, "plan")
    except DocumentError:
        return
    assert plan.predicted(plan.budget.cost) >= 0


@given(st.integers(0, 2000), st.text(max_size=4))
def test_no_damaged_text_raises_anything_else(position, inserted):
    text = dump_document(PLAN)
    try:
        plan = parse_document(text[:position] + inserted + text[position + 1 :], Plan, "plan")
    except DocumentError:
        return
    assert isinstance(plan, Plan)


def test_a_plan_of_an_older_version_is_to_be_made_anew(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(changed("schema_version", 2))
    with pytest.raises(DocumentError, match=r"which reads 4; make the file anew"):
        read_plan(file)


def test_plan_that_breaks_its_promise_cannot_be_made():
    (budget,) = PLAN.budgets
    with pytest.raises(ValueError, match="above what was asked"):
        replace(PLAN, budgets=(replace(budget, predicted=3.25),))
