"""Indices of units as short text, since a model has hundreds of thousands of them.

``0+64*12`` stands for 12 units of 64 neighbouring entries each, one behind the other from entry 0;
``|`` joins the parts of units that lie in several places (``0+64*12|768+64*12``: queries and keys
in one tensor), a blank one run of units and the next.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

Indices = tuple[tuple[int, ...], ...]
_Pieces = tuple[tuple[int, int], ...]

_PART = re.compile(r"(?P<first>\d{1,9})\+(?P<size>[1-9]\d{0,8})\*(?P<count>[1-9]\d{0,8})")
_MOST_ENTRIES = 2**24
"""No dimension of a weight is longer; a short text shall not unfold into more."""


def written_indices(indices: Indices) -> str:
    """Return the text of indices, ``[num_units][entries of the unit]``."""
    runs: list[tuple[_Pieces, int]] = []
    for unit in indices:
        pieces = tuple(_pieces(unit))
        if runs and pieces == _following(*runs[-1]):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((pieces, 1))
    return " ".join(
        "|".join(f"{first}+{size}*{count}" for first, size in pieces) for pieces, count in runs
    )


def read_indices(text: object) -> object:
    """Return the indices of a text; anything else is left to whoever checks types.

    Raises:
        ValueError: the text is not of this form.
    """
    if not isinstance(text, str):
        return text
    found: list[tuple[int, ...]] = []
    num_entries = 0
    for run in text.split(" "):
        parts = [_part(part) for part in run.split("|")]
        counts = {count for _, _, count in parts}
        num_entries += sum(size * count for _, size, count in parts)
        if len(counts) != 1 or num_entries > _MOST_ENTRIES:
            raise ValueError(f"{run[:40]!r} must have parts of one number of units each, not huge")
        for unit in range(counts.pop()):
            found.append(tuple(_entries(parts, unit)))
    return tuple(found)


UnitIndices = Annotated[Indices, BeforeValidator(read_indices), PlainSerializer(written_indices)]
"""Indices in a document: text in the file, tuples in the program."""


def _pieces(unit: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring entries: first entry and size."""
    first, size = unit[0], 1
    for entry in unit[1:]:
        if entry == first + size:
            size += 1
            continue
        yield first, size
        first, size = entry, 1
    yield first, size


def _following(pieces: _Pieces, count: int) -> _Pieces:
    """The unit behind so many that began with these pieces."""
    return tuple((first + size * count, size) for first, size in pieces)


def _part(text: str) -> tuple[int, int, int]:
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not of the form FIRST+SIZE*UNITS, such as 0+1*64")
    return int(match["first"]), int(match["size"]), int(match["count"])


def _entries(parts: Sequence[tuple[int, int, int]], unit: int) -> Iterator[int]:
    for first, size, _ in parts:
        yield from range(first + unit * size, first + (unit + 1) * size)
