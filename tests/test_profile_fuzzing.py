"""Malformed profiles: whatever is done to one, it is refused in one sentence or it is sound."""

import copy
import math
from datetime import datetime
from pathlib import Path
from typing import get_args

import pytest
import yaml
from builders import small_profile
from hypothesis import given
from hypothesis import strategies as st

from cost_models import DeviceProfile, DocumentError, Layout
from cost_models.documents import dump_document, parse_document, to_plain
from cost_models.layer_work import LayerClass, layer_work
from cost_models.plausibility import doubtful_figures
from cost_models.roofline import ANY_CLASS
from spartan_planner.bundled_profiles import bundled_profile_names, load_profile
from spartan_planner.cli.app import run
from spartan_planner.console import result_console
from spartan_planner.profile_report import (
    estimates_table,
    facts_table,
    measurement_table,
    profiles_table,
)
from spartan_planner.report import profile_table

TEXTS = [dump_document(small_profile())]
TEXTS += [dump_document(load_profile(name)) for name in bundled_profile_names()[::4]]
TREES = [yaml.safe_load(text) for text in TEXTS]

HOSTILE = st.sampled_from(
    [
        *(math.nan, math.inf, -math.inf, -1.0, 0.0, -1, 0, 1e308, 5e-324, 10**400, True, None),
        *("", "x", "1", "[/x]", "[bold", ":cat:", "\ud7ff", [], {}, [1], {"a": 1}, [[]]),
    ]
)


def places(tree, path=()):
    """Every place in a tree: the keys and indices that lead to it."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, item in items if isinstance(tree, dict | list) else ():
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))
        else:
            yield (*path, key)


ROUNDED_SUM = 0.0101
"""Relative: a document may round the parts of a model's time to within 1 % of the whole."""

PLACES = [list(places(tree)) for tree in TREES]


def parent_of(tree, path):
    for key in path[:-1]:
        tree = tree[key]
    return tree


@st.composite
def changed_trees(draw):
    """A valid profile with one to three places deleted, replaced, renamed or doubled."""
    which = draw(st.integers(0, len(TREES) - 1))
    tree = copy.deepcopy(TREES[which])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES[which]))
        try:
            parent = parent_of(tree, path)
            old = parent[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
        change = draw(st.sampled_from(["delete", "replace", "rename", "scale", "double"]))
        if change == "delete":
            del parent[path[-1]]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = parent.pop(path[-1])
        elif change == "scale" and isinstance(old, int | float):
            parent[path[-1]] = old * draw(st.sampled_from([-1, 0, 1e-30, 1e30, 1e300]))
        elif change == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(old))
        else:
            parent[path[-1]] = draw(HOSTILE)
    return tree


@st.composite
def changed_texts(draw):
    """The text of a valid profile, cut off, with lines doubled, dropped or overwritten."""
    text = draw(st.sampled_from(TEXTS))
    lines = text.splitlines(keepends=True)
    change = draw(st.sampled_from(["cut", "double", "drop", "insert"]))
    row = draw(st.integers(0, len(lines) - 1))
    if change == "cut":
        return text[: draw(st.integers(0, len(text) - 1))]
    if change == "double":
        return "".join([*lines[: row + 1], lines[row], *lines[row + 1 :]])
    if change == "drop":
        return "".join(lines[:row] + lines[row + 1 :])
    return "".join([*lines[:row], draw(st.text(max_size=12)), *lines[row:]])


def figures(value):
    """Every number in a document."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from figures(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check(text):
    """Refused with one sentence, or sound to the last figure and shown without a crash."""
    try:
        profile = parse_document(text, DeviceProfile, "profile mine.yaml")
    except DocumentError as error:
        message = str(error)
    else:
        check_sound(profile)
        return
    assert message.startswith("profile mine.yaml")
    assert "\n" not in message


def check_sound(profile):
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures(to_plain(profile)))
    facts = profile.facts
    assert all(fact.value > 0 for fact in facts.peak_gflop_per_s.values())
    assert facts.bandwidth_gb_per_s.value > 0
    assert facts.launch_overhead_us.value > 0
    for layer in profile.layers:
        check_layer(layer)
    for model in profile.models:
        whole_ms = max(model.dense_ms, model.layers_ms)  # layers timed apart may take longer
        assert model.layers_ms + model.rest_ms == pytest.approx(whole_ms, rel=ROUNDED_SUM)
    assert len({model.fingerprint for model in profile.models}) == len(profile.models)
    known = {*get_args(LayerClass), ANY_CLASS}
    assert all(item.layer_class in known for item in profile.roofline.classes)
    if profile.measurement is not None:
        check_provenance(profile.measurement.provenance)
    assert parse_document(dump_document(profile), DeviceProfile, "text") == profile
    doubtful_figures(profile)
    console = result_console(quiet=True)
    tables = (facts_table(profile), estimates_table(profile), measurement_table(profile))
    console.print(*tables, profile_table(profile), profiles_table({"mine": profile}))


def check_layer(layer):
    """The shape is one that torch would run, and every fit is near a sample that can be."""
    assert layer.dense_ms > 0
    shape = layer.shape
    assert layer_work(shape).num_bytes > 0
    inputs = shape.input_shape[1] if shape.is_convolution else shape.input_shape[-1]
    assert inputs == shape.weight_shape[1] * shape.groups
    assert shape.weight_shape[0] % shape.groups == 0
    for sparse in layer.sparse:
        num_blocks = Layout.parse(sparse.layout).num_blocks(shape.weight_shape)
        assert all(sample.num_kept_blocks <= num_blocks for sample in sparse.samples)
        factors = [
            (sparse.fixed_ms + sparse.per_block_ms * sample.num_kept_blocks) / sample.latency_ms
            for sample in sparse.samples
        ]
        assert any(1 / 3.01 < factor < 3.01 for factor in factors)


def check_provenance(provenance):
    assert provenance.date == "unknown" or datetime.fromisoformat(provenance.date)
    assert all(factor > 0 for factor in provenance.in_situ_factors.values())
    assert all(core >= 0 for core in provenance.pinned_cores)


@given(changed_trees())
def test_a_changed_profile_is_refused_or_sound(tree):
    check(yaml.dump(tree, allow_unicode=True))


@given(changed_texts())
def test_a_damaged_text_is_refused_or_sound(text):
    check(text)


FIGURES = [math.nan, math.inf, -1.0, -1, 1e308, 10**400, "1.0", True, None, []]
# One place of each kind: any entry of a list stands for the others.
FIGURE_PLACES = {
    tuple("[]" if isinstance(key, int) else key for key in path): (which, path)
    for which, tree in enumerate(TREES[:2])
    for path in PLACES[which]
    if isinstance(figure := parent_of(tree, path)[path[-1]], int | float)
    and not isinstance(figure, bool)
}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: repr(figure)[:8])
def test_no_figure_of_a_profile_can_be_anything(figure):
    """One place at a time, so that no mistake hides behind another."""
    provenance = ("measurement", "provenance")
    optional = {
        ("roofline", "median_error"),
        ("facts", "memory_gb"),
        *((*provenance, name) for name in ("median_fit_error", "max_fit_error")),
        (*provenance, "widest_half_width"),
    }
    for which, path in FIGURE_PLACES.values():
        if figure is None and path in optional:
            continue
        tree = copy.deepcopy(TREES[which])
        parent_of(tree, path)[path[-1]] = figure
        with pytest.raises(DocumentError, match=r"^profile mine.yaml"):
            parse_document(yaml.dump(tree), DeviceProfile, "profile mine.yaml")


CONTRADICTIONS = [
    (("layers", 1, "shape", "groups"), 5),
    (("layers", 1, "shape", "input_shape"), [1, 7, 8, 8]),
    (("layers", 1, "shape", "weight_shape"), [64, 64]),
    (("layers", 1, "shape", "op"), "linear"),
    (("layers", 1, "shape", "dtype"), "banana"),
    (("layers", 1, "sparse", 0, "samples"), []),
    (("layers", 1, "sparse", 0, "samples", 0, "num_kept_blocks"), 10**6),
    (("layers", 1, "sparse", 0, "fixed_ms"), 1e6),
    (("models", 0, "rest_ms"), 3.0),
    (("roofline", "classes", 0, "layer_class"), "banana"),
    (("measurement", "provenance", "date"), "yesterday"),
    (("measurement", "provenance", "in_situ_factors", "conv"), -1.0),
    (("measurement", "provenance", "pinned_cores"), [-1]),
]


@pytest.mark.parametrize(("path", "value"), CONTRADICTIONS, ids=str)
def test_a_profile_that_contradicts_itself_is_refused(path, value):
    tree = copy.deepcopy(TREES[0])
    parent_of(tree, path)[path[-1]] = value
    with pytest.raises(DocumentError, match=r"^profile mine.yaml: at "):
        parse_document(yaml.dump(tree), DeviceProfile, "profile mine.yaml")


def test_another_schema_version_is_refused_with_what_to_do():
    tree = {**TREES[0], "schema_version": 1}
    with pytest.raises(
        DocumentError, match=r"at schema_version: found 1: not read .* reads 2; make the"
    ):
        parse_document(yaml.dump(tree), DeviceProfile, "profile mine.yaml")


@pytest.mark.parametrize("text", ["", "{", "a: 1\na: 2", "[1, 2]", TEXTS[0][:200]])
def test_the_command_line_refuses_what_is_no_profile(tmp_path, capsys, text):
    path = Path(tmp_path) / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    for command in ("show", "validate"):
        assert run(["profiles", command, str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: profile {path}")
        assert captured.err.count("\n") == 1


def test_what_a_profile_says_is_text_and_no_markup(tmp_path, capsys):
    tree = copy.deepcopy(TREES[0])
    tree["name"] = "[/bold] [link=x] :cat:"
    path = Path(tmp_path) / "mine.yaml"
    path.write_text(yaml.dump(tree), encoding="utf-8")
    assert run(["profiles", "show", str(path)]) == 0
    assert "[/bold] [link=x] :cat:" in capsys.readouterr().out
