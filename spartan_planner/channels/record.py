"""What was removed from a model, in terms of the model it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from cost_models.documents import document

RECORD_SCHEMA_VERSION = 1
_ATTRIBUTE = "_channel_record"


@document
@dataclass(frozen=True)
class KeptPlaces:
    """What is left of one dimension of one tensor.

    Attributes:
        tensor: name of the parameter or buffer.
        dim: the dimension.
        original_size: of the dimension, before anything was removed.
        kept: places along it that are left, ascending, as the original counts them.
    """

    tensor: str
    dim: int
    original_size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse places that the original does not have."""
        ascending = all(one < other for one, other in zip(self.kept, self.kept[1:], strict=False))
        if not self.kept or self.dim < 0 or not ascending:
            raise ValueError("kept places must ascend, and there must be one")
        if self.kept[0] < 0 or self.kept[-1] >= self.original_size:
            raise ValueError(f"kept places must lie between 0 and {self.original_size - 1}")


@document
@dataclass(frozen=True)
class StatedSize:
    """A size that a module states of itself, as it is after the removal.

    Attributes:
        module: its name in the model; empty for the model itself.
        attribute: which one.
        value: what it says now.
    """

    module: str
    attribute: str
    value: int


@document
@dataclass(frozen=True)
class ChannelRecord:
    """All that was removed from a model, in one step or several.

    Attributes:
        schema_version: version of this document.
        places: what is left of each dimension that became smaller.
        sizes: what modules state of themselves since.
        narrowed: names of ``nn.MultiheadAttention`` modules that have fewer heads than they embed.
    """

    schema_version: int
    places: tuple[KeptPlaces, ...] = ()
    sizes: tuple[StatedSize, ...] = ()
    narrowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse documents of another version."""
        if self.schema_version != RECORD_SCHEMA_VERSION:
            raise ValueError(f"schema_version must be {RECORD_SCHEMA_VERSION}")

    def then(
        self,
        places: Sequence[KeptPlaces],
        sizes: Mapping[tuple[str, str], int],
        narrowed: Sequence[str],
    ) -> "ChannelRecord":
        """Return the record after a further removal, whose places count what was left before."""
        held = {(item.tensor, item.dim): item for item in self.places}
        for item in places:
            before = held.get((item.tensor, item.dim))
            held[item.tensor, item.dim] = _composed(before, item) if before else item
        stated = {(item.module, item.attribute): item.value for item in self.sizes} | dict(sizes)
        return replace(
            self,
            places=tuple(held.values()),
            sizes=tuple(StatedSize(*key, value) for key, value in stated.items()),
            narrowed=tuple(dict.fromkeys((*self.narrowed, *narrowed))),
        )


def _composed(before: KeptPlaces, after: KeptPlaces) -> KeptPlaces:
    return replace(before, kept=tuple(before.kept[at] for at in after.kept))


def record_of(model: nn.Module) -> ChannelRecord:
    """Return what was removed from a model so far: nothing, if it never was."""
    record = getattr(model, _ATTRIBUTE, None)
    return record if isinstance(record, ChannelRecord) else ChannelRecord(RECORD_SCHEMA_VERSION)


def keep_record(model: nn.Module, record: ChannelRecord) -> None:
    """Let the model carry the record; copies of it do as well."""
    setattr(model, _ATTRIBUTE, record)
