"""What each process brings into a competition that runs over several, so that nothing counts twice.

Of weights whose blocks are divided over the processes every one brings its own blocks.  Where all
hold the figures of every block (balanced layouts, or weights that are not sharded) the first
process brings them, and hands the result to the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from spartan_planner.transport.collective import hand_out, own_rank, sum_over_ranks


@dataclass(frozen=True)
class Contributions:
    """Who brings which weights.

    Attributes:
        process_group: the processes; ``None`` for this one alone.
        is_divided: for each competing weight whether its blocks are divided over them.
    """

    process_group: dist.ProcessGroup | None
    is_divided: tuple[bool, ...]

    def own(self, figures: Sequence[Tensor]) -> list[Tensor]:
        """Return what this process brings of figures of blocks, a tensor for each weight."""
        return [
            tensor if brings else tensor.reshape(-1)[:0]
            for tensor, brings in zip(figures, self._brings, strict=True)
        ]

    def shared(self, found: Sequence[Tensor], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Hand out results for what only the first process brought.

        Args:
            found: a tensor for each weight, of the size of what this process brought.
            like: tensors of the sizes of the results.
        """
        if self.process_group is None:
            return tuple(found)
        results = [
            result if brings else result.new_empty(whole.shape)
            for result, whole, brings in zip(found, like, self._brings, strict=True)
        ]
        hand_out(self._undivided(results), self.process_group)
        return tuple(results)

    def sums(self, figures: Sequence[Tensor]) -> list[float]:
        """Return one number per weight, added up over the processes that brought its blocks."""
        if not figures:
            return []
        brings = torch.tensor(self._brings, device=figures[0].device)
        local = torch.stack([figure.double() for figure in figures]) * brings
        totals: list[float] = sum_over_ranks(local, self.process_group).tolist()
        return totals

    def counts(self, masks: Sequence[Tensor]) -> list[float]:
        """Return how many blocks of each weight are kept, over all processes."""
        return self.sums([mask.count_nonzero() for mask in masks])

    @property
    def _brings(self) -> list[bool]:
        is_first = own_rank(self.process_group) == 0
        return [is_divided or is_first for is_divided in self.is_divided]

    def _undivided(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(tensors, self.is_divided, strict=True)
        return [tensor for tensor, is_divided in pairs if not is_divided]
