"""Layouts: their text form, and how many blocks of what size a weight has."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import Layout, LayoutKind, UnknownNameError

TEXTS = ("element", "tile:1x1", "tile:64x1", "tile:4x8", "tile:64x1@16", "tile:1x1@1", "2:4")

SHAPES = st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple)
LAYOUTS = st.one_of(
    st.just(Layout(LayoutKind.ELEMENT)),
    st.builds(Layout, st.just(LayoutKind.TILE), st.integers(1, 50), st.integers(1, 50)),
    st.builds(Layout, st.just(LayoutKind.TILE), st.integers(1, 50), st.just(1), st.integers(1, 50)),
    st.builds(lambda n, more: Layout.n_m(n, n + more), st.integers(1, 4), st.integers(1, 20)),
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_parsing(text):
    assert str(Layout.parse(text)) == text


@given(LAYOUTS)
def test_layout_survives_its_text(layout):
    assert Layout.parse(str(layout)) == layout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tile",
        "tile:",
        "tile:0x1",
        "tile:4x",
        "tile:4x2@8",
        "tile:4x1@0",
        "tile:04x1",
        "4:4",
        "0:4",
    ],
)
def test_unknown_text_is_refused_with_examples(text):
    with pytest.raises(UnknownNameError, match=r"tile:64x1@16") as caught:
        Layout.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        (LayoutKind.ELEMENT, 1, 1, 4),
        (LayoutKind.TILE, 4, 2, 4),
        (LayoutKind.TILE, 0),
        (LayoutKind.TILE, 1, 0),
        (LayoutKind.TILE, 1, 1, -1),
    ],
)
def test_meaningless_combination_is_refused(arguments):
    with pytest.raises(ValueError, match="tile"):
        Layout(*arguments)


@pytest.mark.parametrize(
    ("text", "shape", "sizes"),
    [
        ("element", (2, 3), [1] * 6),
        ("tile:2x2", (4, 4), [1, 1, 1, 1]),
        ("tile:2x2", (3, 3), [1, 1 / 2, 1 / 2, 1 / 4]),
        ("tile:64x1", (8, 2, 3, 3), [1, 1]),
        ("tile:64x1", (96, 2), [1, 1, 1 / 2, 1 / 2]),
        ("tile:32x1@16", (64, 40, 3, 3), [1, 1, 1 / 2]),
        ("tile:32x1@16", (64, 8), [1]),
    ],
)
def test_sizes_of_blocks(text, shape, sizes):
    layout = Layout.parse(text)
    np.testing.assert_array_equal(layout.block_sizes(shape), sizes)
    assert layout.num_blocks(shape) == len(sizes)


@given(LAYOUTS, SHAPES)
def test_blocks_hold_every_element_once(layout, shape):
    sizes = layout.block_sizes(shape)
    assert sizes.shape == (layout.num_blocks(shape),)
    assert np.all((sizes > 0) & (sizes <= 1))
    elements = sizes * layout.num_elements_per_block(shape)
    # Each size is a fraction rounded once: elements come out whole up to that rounding.
    np.testing.assert_allclose(elements, np.round(elements), rtol=1e-12)
    assert round(elements.sum()) == math.prod(shape)
    assert layout.num_whole_blocks(shape) == pytest.approx(sizes.sum(), rel=1e-12)
