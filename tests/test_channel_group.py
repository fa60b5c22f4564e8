"""Channel groups: places of units, and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import ChannelGroup, ChannelSlice, DocumentError
from cost_models.documents import dump_document, parse_document

ROWS = ChannelSlice("conv1.weight", 0, ((0,), (1,), (2,)), "output")
COLUMNS = ChannelSlice("fc.weight", 1, ((0, 1), (2, 3), (4, 5)), "input")
GROUP = ChannelGroup("conv1.weight", "channel", 3, (ROWS, COLUMNS))


def test_elements_of_units_ascend():
    assert COLUMNS.elements([2, 0]) == (0, 1, 4, 5)
    assert COLUMNS.num_elements == 6
    assert GROUP.slices_of("fc.weight") == (COLUMNS,)
    assert GROUP.slices_of("other") == ()


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        (ROWS, {"dim": -1}, "dim must not be negative"),
        (ROWS, {"indices": ((0,), ())}, "every unit must have elements"),
        (ROWS, {"indices": ()}, "every unit must have elements"),
        (ROWS, {"indices": ((0,), (-1,))}, "counted from 0"),
        (ROWS, {"indices": ((0, 1), (1,))}, "'conv1.weight' appears twice"),
        (GROUP, {"num_units": 0}, "must have a unit and a slice"),
        (GROUP, {"slices": ()}, "must have a unit and a slice"),
        (GROUP, {"num_units": 2}, "must hold num_units units"),
        (GROUP, {"slices": (ROWS, ROWS)}, "one slice per tensor and dimension"),
    ],
)
def test_contradictions_are_refused(value, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(value, **changes)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.randoms())
def test_documents_come_back_as_they_were(sizes, random):
    places = list(range(sum(sizes)))
    random.shuffle(places)
    units = tuple(tuple(places.pop() for _ in range(size)) for size in sizes)
    group = ChannelGroup("w", "head", len(sizes), (ChannelSlice("w", 0, units, "output"),))
    assert parse_document(dump_document(group), ChannelGroup, "group") == group
    assert group.slices[0].elements(range(len(sizes))) == tuple(range(sum(sizes)))


def test_unknown_roles_are_refused():
    with pytest.raises(DocumentError, match="role"):
        parse_document(dump_document(GROUP).replace("output", "row"), ChannelGroup, "group")
