"""Which tensors of a forward pass stem from parameters alone, and from which."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Placement:
    """Where elements lie in a storage: of index i, at ``offset + sum(i * strides)``."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Placement":
        """Return a tensor's placement; the stride of a dimension of one element says nothing."""
        shape = tuple(tensor.shape)
        strides = tuple(
            step if size > 1 else 0 for step, size in zip(tensor.stride(), shape, strict=True)
        )
        return cls(shape, strides, int(tensor.storage_offset()))

    def copied(self, view: "Placement", copy: "Placement") -> "Placement | None":
        """Return where these elements lie in ``copy``, made of ``view`` of the same storage.

        None unless the view is the whole with its dimensions in some order.
        """
        wanted = list(zip(self.shape, self.strides, strict=True))
        order: list[int] = []
        for dimension in wanted:
            pairs = enumerate(zip(view.shape, view.strides, strict=True))
            found = [at for at, pair in pairs if pair == dimension and at not in order]
            if not found:
                return None
            order.append(found[0])
        if len(view.shape) != len(wanted) or view.offset != self.offset:
            return None
        return Placement(self.shape, tuple(copy.strides[at] for at in order), copy.offset)


@dataclass(frozen=True)
class Source:
    """Where the elements of a tensor that depends on no input come from.

    Attributes:
        parameter: name of the (largest) parameter; empty if there is none.
        num_elements: of that parameter.
        placement: where the parameter's elements lie in the storage; None where they were
            rearranged or computed with.
        computed_by: the operation that computed with them last; empty for copies.
    """

    parameter: str = ""
    num_elements: int = 0
    placement: Placement | None = None
    computed_by: str = ""


_COPIES = frozenset({"clone", "_to_copy", "_reshape_copy", "contiguous", "alias_copy", "copy"})


class Provenance:
    """Follows parameters, buffers and constants through the operations of a forward pass.

    A tensor is *fixed* if no input of the model has a part in it.  Fixed tensors are known by
    their storage, so that views need no care; the storages are kept alive, since the address of a
    freed one could return with other contents.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sources: dict[int, list[Source]] = {}
        self._alive: list[Any] = []
        for buffer in model.buffers():
            self._add(buffer, Source())
        for name, parameter in model.named_parameters():
            self._add(parameter, Source(name, parameter.numel(), Placement.of(parameter)))
        self._of_parameters = frozenset(
            key for parameter in model.parameters() if (key := _storage_key(parameter)) is not None
        )

    def source(self, tensor: Tensor) -> Source | None:
        """Return where a fixed tensor comes from, or None if it depends on an input."""
        key = _storage_key(tensor)
        sources = self._sources.get(key, []) if key is not None else []
        if len(sources) <= 1:
            return sources[0] if sources else None
        # Several parameters in one storage, as cuDNN packs them: the last that begins before.
        start = int(tensor.storage_offset())
        before = [item for item in sources if item.placement and item.placement.offset <= start]
        return max(before or sources, key=_offset)

    def follow(self, func: Any, inputs: object, output: object) -> None:  # noqa: ANN401
        """Note what an operation made: fixed, if all the tensors it read are."""
        read = list(_tensors(inputs))
        sources = [self.source(tensor) for tensor in read]
        written = _written(func, inputs)
        for tensor in written:
            self._forget(tensor)
        known = [source for source in sources if source is not None]
        if len(known) == len(sources):
            for tensor in (*written, *_tensors(output)):
                if self.source(tensor) is None:
                    self._add(tensor, _source_after(func, read, known, tensor))

    def _add(self, tensor: Tensor, source: Source) -> None:
        key = _storage_key(tensor)
        if key is not None:
            self._sources.setdefault(key, []).append(source)
            self._alive.append(tensor.untyped_storage())

    def _forget(self, tensor: Tensor) -> None:
        key = _storage_key(tensor)
        if key is not None and key not in self._of_parameters:
            self._sources.pop(key, None)


def _source_after(
    func: Any,  # noqa: ANN401 - an operator's overload
    read: list[Tensor],
    sources: list[Source],
    output: Tensor,
) -> Source:
    name = func.overloadpacket.__name__
    if name in _COPIES and len(read) == 1:
        (source,) = sources
        moved = source.placement and source.placement.copied(
            Placement.of(read[0]), Placement.of(output)
        )
        return replace(source, placement=moved)
    largest = max(sources, key=lambda item: item.num_elements, default=Source())
    return Source(largest.parameter, largest.num_elements, computed_by=name)


def _written(func: Any, inputs: object) -> list[Tensor]:  # noqa: ANN401
    if not func._schema.is_mutable:
        return []
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", inputs)
    given = {item.name: value for item, value in zip(func._schema.arguments, args, strict=False)}
    given |= kwargs
    names = [item.name for item in func._schema.arguments if item.is_write]
    return list(_tensors([given.get(name) for name in names]))


def _offset(source: Source) -> int:
    return source.placement.offset if source.placement else 0


def _tensors(values: object) -> Iterable[Tensor]:
    return (item for item in tree_leaves(values) if isinstance(item, Tensor))


def _storage_key(tensor: Tensor) -> int | None:
    if not torch._C._has_storage(tensor):
        return None  # sparse or nested: it is nobody's weight matrix
    return int(tensor.untyped_storage()._cdata)
