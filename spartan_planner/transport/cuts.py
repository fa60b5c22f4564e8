"""Which elements a hard selection keeps, as thresholds of their values instead of a mask.

A mask of single elements would be written and read again only to be multiplied; comparing takes
less than either.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.passes import chunk_bounds, chunk_size


@dataclass(frozen=True)
class Cut:
    """What is kept of one tensor: ``v >= low`` before a position, ``v >= high`` from there on.

    ``low`` and ``high`` enclose the values that are tied at the boundary, of which the first few
    are kept; ``num_kept`` counts everything that is.
    """

    low: float
    high: float
    position: int
    num_kept: int

    def mask(self, values: Tensor) -> Tensor:
        """Return the boolean mask, of the shape of the values."""
        result = torch.empty(values.shape, dtype=torch.bool, device=values.device)
        flat, size = values.reshape(-1), chunk_size(values.device) // 2
        flags = flat.new_empty(min(size, flat.numel()))
        for start, stop, threshold in self._chunks(flat.numel(), size):
            # Numbers, then booleans: comparing into booleans at once takes three times as long.
            found = torch.ge(flat[start:stop], threshold, out=flags[: stop - start])
            result.view(-1)[start:stop].copy_(found)
        return result

    def apply(self, values: Tensor, weight: Tensor, soft: Tensor | None) -> None:
        """Put ``theta m h`` where the values of single elements are, in one pass.

        Args:
            values: Those that the cut is of, contiguous; overwritten.
            weight: theta, contiguous, of as many elements and the same dtype.
            soft: m, likewise; ``None`` for 1.

        Raises:
            TransportError: Tensors that differ, or are not contiguous.
        """
        factors = [weight] if soft is None else [soft, weight]
        for tensor in (values, *factors):
            fits = tensor.numel() == values.numel() and tensor.dtype == values.dtype
            if not (fits and tensor.is_contiguous()):
                raise TransportError(
                    f"A cut is applied to contiguous tensors of one size and dtype; got "
                    f"{tuple(values.shape)} of {values.dtype} and {tuple(tensor.shape)} of "
                    f"{tensor.dtype}."
                )
        flat, *others = (tensor.detach().view(-1) for tensor in (values, *factors))
        for start, stop, threshold in self._chunks(flat.numel(), chunk_size(flat.device) // 2):
            part = flat[start:stop]
            torch.ge(part, threshold, out=part)
            for other in others:
                part.mul_(other[start:stop])

    def _chunks(self, length: int, size: int) -> Iterator[tuple[int, int, float]]:
        """Yield the bounds of chunks, and the threshold of each."""
        for start, stop in chunk_bounds(self.position, size):
            yield start, stop, self.low
        for start, stop in chunk_bounds(length - self.position, size):
            yield self.position + start, self.position + stop, self.high
