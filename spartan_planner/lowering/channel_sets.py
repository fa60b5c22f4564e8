"""Numbers for channels, of which several turn out to be one (disjoint sets)."""

import numpy as np
from numpy.typing import NDArray

from spartan_planner.lowering.structure import Indices


class ChannelSets:
    """Channels by number; those that were made one have one root."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._pinned: list[int] = []

    def new(self, count: int) -> Indices:
        """Return numbers of ``count`` further channels, ``[count]``."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unite(self, some: Indices, others: Indices) -> None:
        """Make one channel of each pair."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            self._parents[self._root(other)] = self._root(one)

    def pin(self, channels: Indices) -> None:
        """State that these channels are needed, whatever layers read."""
        self._pinned.extend(channels.tolist())

    def roots(self) -> Indices:
        """Return the number that stands for each channel, ``[channels]``."""
        return np.array([self._root(item) for item in range(len(self._parents))], np.int64)

    def pinned(self) -> NDArray[np.bool_]:
        """Return which numbers are needed, ``[channels]``; true of a root if of any of its set."""
        mask = np.zeros(len(self._parents), np.bool_)
        mask[[self._root(item) for item in self._pinned]] = True
        return mask

    def _root(self, channel: int) -> int:
        parents = self._parents
        while parents[channel] != channel:
            parents[channel] = parents[parents[channel]]
            channel = parents[channel]
        return channel
