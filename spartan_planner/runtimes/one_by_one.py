"""Layers timed one by one, for runtimes that do not tell what their operations take."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spartan_planner.runtimes.bursts import burst
from spartan_planner.runtimes.protocol import LayerSet, Session


def single_layers(layers: LayerSet) -> list[LayerSet]:
    """Return one set per layer."""
    return [
        LayerSet((shape,), layers.layout, layers.num_kept_blocks[index : index + 1])
        for index, shape in enumerate(layers.shapes)
    ]


class OneByOne:
    """Sessions run in turn, as the layers of a model are, and timed each.

    A layer's time holds what the runtime takes for one call, so it is an upper bound of the
    layer's time within a model.

    Args:
        sessions: one per layer.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self._bursts: list[NDArray[np.float64]] = []

    def burst(self) -> None:
        """Run all until warm, then a few times more; the times of those are kept."""
        self._bursts.append(np.median(np.array(burst(self._run)[1]), axis=0))

    def times_ms(self) -> NDArray[np.float64]:
        """Return the times, ``[bursts, layers]``, medians over each burst."""
        return np.stack(self._bursts)

    def _run(self) -> list[float]:
        return [session.time_ms() for session in self._sessions]
