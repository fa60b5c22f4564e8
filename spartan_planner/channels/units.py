"""Which channels can only go together: numbered labels, united by what the model computes.

Every index along every dimension of every parameter has a label of its own.  Labels that one
operation ties together are united; what is united with a *fixed* label is always kept.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_UNIT = 0
"""The label of what belongs to no unit; the labels after it stand for reasons to keep a unit."""
_NUM_RESERVED = 256

Labels = NDArray[np.int64]


class Units:
    """Sets of labels (a union-find whose smallest label is the root)."""

    def __init__(self) -> None:
        self._parents: Labels = np.arange(4 * _NUM_RESERVED, dtype=np.int64)
        self._num_labels = _NUM_RESERVED
        self._reasons = ["it is tied to channels that are kept"]

    @property
    def num_labels(self) -> int:
        """Labels given out so far, the reserved ones included."""
        return self._num_labels

    def new(self, count: int) -> Tensor:
        """Return ``count`` labels, each a unit of its own."""
        start, self._num_labels = self._num_labels, self._num_labels + count
        if self._num_labels > len(self._parents):
            more = np.arange(len(self._parents), 2 * self._num_labels, dtype=np.int64)
            self._parents = np.concatenate([self._parents, more])
        return torch.arange(start, self._num_labels)

    def raw_roots(self, labels: Tensor) -> Labels:
        """Return the root of each label; a root below the reserved ones names a reason."""
        roots: Labels = self._parents[labels.numpy()]
        while True:
            further: Labels = self._parents[roots]
            if np.array_equal(further, roots):
                return roots
            roots = further

    def roots(self, labels: Tensor) -> Tensor:
        """Return the root of each label, ``NO_UNIT`` where it is always kept."""
        roots = self.raw_roots(labels)
        return torch.from_numpy(np.where(roots < _NUM_RESERVED, NO_UNIT, roots))

    def reason(self, raw_root: int) -> str:
        """Return why the units of such a root are kept; empty where they need not be."""
        return self._reasons[raw_root] if raw_root < _NUM_RESERVED else ""

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Unite the labels that stand at the same place, after broadcasting."""
        roots = np.broadcast_arrays(self.raw_roots(left), self.raw_roots(right))
        pairs = np.stack([side.ravel() for side in roots])
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        for one, other in pairs.T.tolist():
            self._unite_two(one, other)

    def code(self, reason: str) -> int:
        """Return the label that stands for this reason to keep a unit."""
        if reason not in self._reasons:
            if len(self._reasons) == _NUM_RESERVED:
                return NO_UNIT
            self._reasons.append(reason)
        return self._reasons.index(reason)

    def keep(self, labels: Tensor, reason: str) -> None:
        """Keep the units of these labels, for a reason that a user can read."""
        free = labels[self.roots(labels) != NO_UNIT]
        self.unite(free, torch.tensor(self.code(reason)))

    def _unite_two(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self._parents[max(one, other)] = min(one, other)

    def _root(self, label: int) -> int:
        parents, root = self._parents, label
        while parents[root] != root:
            root = int(parents[root])
        while parents[label] != root:
            parents[label], label = root, int(parents[label])
        return root
