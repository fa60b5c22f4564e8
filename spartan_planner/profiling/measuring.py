"""Round after round until the figures are certain enough."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from cost_models import Workload
from spartan_planner.profiling.lowered_model import lowered_model
from spartan_planner.profiling.measurement_plan import Batch
from spartan_planner.profiling.partial_file import PartialFile
from spartan_planner.profiling.rounds import (
    Round,
    figures_of,
    half_widths_that_count,
    open_batch,
    run_pass,
)
from spartan_planner.profiling.settings import ProfileSettings
from spartan_planner.profiling.whole_model import whole_model
from spartan_planner.profiling.yardstick import Yardstick
from spartan_planner.progress import Advance
from spartan_planner.runtimes import Runtime

Tell = Callable[[str], None]
"""Takes a sentence that the user should read."""


def tell_nobody(sentence: str) -> None:
    """Say nothing."""


class Measuring:
    """Rounds of all batches until the figures are certain enough or the time is up.

    Args:
        workload: what to measure.
        settings: how to measure.
        runtime: which runs everything.
        batches: what is in memory together.
        kept: where rounds are kept, if anywhere.
        advance: called after each round with the state of the figures.
        tell: called with what the user should know.
    """

    def __init__(
        self,
        workload: Workload,
        settings: ProfileSettings,
        runtime: Runtime,
        batches: Sequence[Batch],
        kept: PartialFile | None,
        advance: Advance,
        tell: Tell,
    ) -> None:
        self.batches = batches
        self._settings = settings
        self._runtime = runtime
        self._kept = kept
        self._advance = advance
        self._tell = tell
        has_model = any(batch.has_model for batch in batches)
        self._model = whole_model(workload) if has_model else b""
        self._lowered = lowered_model(workload) if has_model else b""

    def measure(self) -> list[list[Round]]:
        """Return the rounds of each batch."""
        rounds = self._rounds_so_far()
        yardstick = Yardstick(self._settings.num_threads, self._runtime)
        deadline = time.monotonic() + self._settings.max_duration_s
        while (number := self._next_batch(rounds, deadline)) is not None:
            done = self._pass(number, rounds, yardstick, deadline)
            if self._kept is not None:
                self._kept.append(done)
            rounds[number] += done
        return rounds

    def _pass(
        self,
        number: int,
        rounds: Sequence[Sequence[Round]],
        yardstick: Yardstick,
        deadline: float,
    ) -> list[Round]:
        batch, num_done = self.batches[number], len(rounds[number])
        state = self._state(rounds)
        return run_pass(
            number,
            lambda: open_batch(
                batch, self._model, self._lowered, self._runtime, self._settings.num_threads
            ),
            yardstick,
            self._settings,
            lambda more: self._goes_on(num_done + more, deadline),
            lambda: self._advance(state),
        )

    def _rounds_so_far(self) -> list[list[Round]]:
        rounds: list[list[Round]] = [[] for _ in self.batches]
        known = self._kept.read(self.batches) if self._kept else []
        for item in known:
            rounds[item.batch].append(item)
        if known:
            self._tell(f"going on from {len(known)} rounds of an earlier run")
        return rounds

    def _goes_on(self, num_rounds: int, deadline: float) -> bool:
        if num_rounds < self._settings.min_rounds:
            return True
        return num_rounds < self._settings.num_rounds and time.monotonic() < deadline

    def _next_batch(self, rounds: Sequence[Sequence[Round]], deadline: float) -> int | None:
        """The batch with the fewest rounds that needs more of them."""
        candidates = [
            number
            for number, done in enumerate(rounds)
            if self._goes_on(len(done), deadline) and not self._is_certain(number, done)
        ]
        return min(candidates, key=lambda number: len(rounds[number]), default=None)

    def _is_certain(self, number: int, done: Sequence[Round]) -> bool:
        if len(done) < self._settings.min_rounds:
            return False
        widths = half_widths_that_count(self.batches[number], figures_of(done))
        return bool(np.all(widths <= self._settings.max_half_width))

    def _state(self, rounds: Sequence[Sequence[Round]]) -> str:
        """How many of the figures that count are certain enough, such as ``31 of 40``."""
        if not all(rounds):
            return ""
        widths = np.concatenate(
            [
                half_widths_that_count(batch, figures_of(done))
                for batch, done in zip(self.batches, rounds, strict=True)
            ]
        )
        num_certain = int(np.sum(widths <= self._settings.max_half_width))
        widest = f", widest {np.max(widths):.1%}" if np.all(np.isfinite(widths)) else ""
        limit = f"{self._settings.max_half_width:.1%}"
        return f"{num_certain} of {len(widths)} figures within {limit}{widest}"
