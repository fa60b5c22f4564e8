"""Indices of units as text: short, and read back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.unit_indices import read_indices, written_indices

TEXTS = [
    (((0,), (1,), (2,)), "0+1*3"),
    (((0, 1), (2, 3)), "0+2*2"),
    (((0, 1, 8, 9), (2, 3, 10, 11)), "0+2*2|8+2*2"),
    (((4,), (5,), (0,)), "4+1*2 0+1*1"),
    (((3, 1),), "3+1*1|1+1*1"),
    (((0,), (2,), (4,)), "0+1*1 2+1*1 4+1*1"),
]


@pytest.mark.parametrize(("indices", "text"), TEXTS)
def test_text(indices, text):
    assert written_indices(indices) == text
    assert read_indices(text) == indices


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.booleans(), st.randoms())
def test_any_indices_come_back(sizes, is_shuffled, random):
    places = list(range(sum(sizes)))
    if is_shuffled:
        random.shuffle(places)
    indices = tuple(tuple(places.pop(0) for _ in range(size)) for size in sizes)
    assert read_indices(written_indices(indices)) == indices


@pytest.mark.parametrize(
    "text",
    ["", "0", "0+0*4", "0+1*0", "-1+1*2", "0+1*2|4+1*3", "0+1*999999999", "0+1*2  2+1*1", "a+1*1"],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"FIRST\+SIZE\*UNITS|not huge"):
        read_indices(text)


def test_what_is_no_text_is_left_alone():
    assert read_indices([[0], [1]]) == [[0], [1]]
