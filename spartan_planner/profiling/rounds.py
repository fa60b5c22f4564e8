"""Rounds: everything of a batch run once, in turn, beside the yardstick."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spartan_planner.profiling.confidence import carriers, relative_half_widths
from spartan_planner.profiling.measurement_plan import Batch
from spartan_planner.profiling.settings import ProfileSettings
from spartan_planner.profiling.yardstick import Yardstick, quiet_rounds
from spartan_planner.runtimes import LAYER_CLASSES, PartTimer, Runtime, Session

MAX_PASS_ROUNDS = 50
"""A profiler holds a million events."""

OPENINGS_PER_PASS = 2
"""A pass lasts at least this many times what loading took."""

LEAST_PASS_ROUNDS = 5
"""Rounds of a pass at least, where more are wanted: loading may last as long as several rounds."""


@dataclass(frozen=True)
class Round:
    """What one round measured.

    Attributes:
        batch: number of the batch.
        yardstick_ms: time of the yardstick.
        times_ms: time of each form of the batch (mean over its copies); then, where the batch
            has the model, of the whole and of each class of its layers.
        duration_s: what the round took in all, its share of loading included.
    """

    batch: int
    yardstick_ms: float
    times_ms: tuple[float, ...]
    duration_s: float


@dataclass(frozen=True)
class Figures:
    """The rounds of one batch that count.

    Attributes:
        relative: ``[quiet rounds, figures]``, times in terms of the yardstick's.
        yardstick_ms: ``[quiet rounds]``.
        num_rounds: rounds that were run.
    """

    relative: NDArray[np.float64]
    yardstick_ms: NDArray[np.float64]
    num_rounds: int


def figures_of(rounds: Sequence[Round]) -> Figures:
    """Return the quiet half of the rounds of one batch."""
    yardstick_ms = np.array([item.yardstick_ms for item in rounds])
    quiet = quiet_rounds(yardstick_ms)
    reference = yardstick_ms[quiet]
    times = np.array([item.times_ms for item in rounds])[quiet]
    return Figures(times / reference[:, None], reference, len(rounds))


def half_widths_that_count(batch: Batch, figures: Figures) -> NDArray[np.float64]:
    """Return the relative half-widths of the figures that carry most of any network's time."""
    medians = np.median(figures.relative, axis=0)
    chosen: set[int] = set()
    for places in batch.places:
        columns = np.array(places)
        chosen |= {int(columns[index]) for index in carriers(medians[columns])}
    if batch.has_model:
        first = len(batch.forms)
        chosen |= {first, *(int(i) + first + 1 for i in carriers(medians[first + 1 : -1]))}
        if medians[-1] > 0:
            chosen.add(len(medians) - 1)
    return relative_half_widths(figures.relative)[sorted(chosen)]


@dataclass(frozen=True)
class OpenBatch:
    """A batch in memory.

    Attributes:
        batch: what it is.
        timers: one per network.
        model: the whole model, and the same timed by classes where the runtime can.
        lowered: the whole model lowered, where it can be.
    """

    batch: Batch
    timers: tuple[PartTimer, ...]
    model: tuple[Session, PartTimer | None] | None
    lowered: Session | None = None

    def round(self) -> tuple[float, float] | None:
        """Run everything once, in turn; return the time of the whole model, dense and lowered."""
        for timer in self.timers:
            timer.burst()
        if self.model is None:
            return None
        session, classes = self.model
        if classes is not None:
            classes.burst()
        return session.burst_ms(), self.lowered.burst_ms() if self.lowered else 0.0

    def times_ms(self, model_ms: Sequence[tuple[float, float] | None]) -> NDArray[np.float64]:
        """Stop and return ``[rounds, figures]``."""
        columns = [_means_of_forms(self.batch, [timer.times_ms() for timer in self.timers])]
        if self.model is not None:
            classes = self.model[1]
            whole = np.array([item or (np.nan, np.nan) for item in model_ms])
            columns.append(whole[:, :1])
            columns.append(
                np.zeros((len(model_ms), len(LAYER_CLASSES)))
                if classes is None
                else classes.times_ms()
            )
            columns.append(whole[:, 1:])
        return np.concatenate(columns, axis=1)


def open_batch(
    batch: Batch, model: bytes, lowered: bytes, runtime: Runtime, num_threads: int
) -> OpenBatch:
    """Load a batch and let everything run once, since a first run allocates.

    Args:
        batch: what to load.
        model: serialized whole model; used where the batch has it.
        lowered: the same with its layers lowered; empty where it cannot be.
        runtime: which loads.
        num_threads: of the runtime.
    """
    timers = tuple(runtime.time_layers(network, num_threads) for network in batch.networks)
    if not batch.has_model:
        return OpenBatch(batch, timers, None)
    whole = (runtime.open(model, num_threads), runtime.time_classes(model, num_threads))
    return OpenBatch(batch, timers, whole, runtime.open(lowered, num_threads) if lowered else None)


def run_pass(
    number: int,
    open_it: Callable[[], OpenBatch],
    yardstick: Yardstick,
    settings: ProfileSettings,
    goes_on: Callable[[int], bool],
    advance: Callable[[], None],
) -> list[Round]:
    """Load a batch and run rounds until the time of a pass is over.

    Args:
        number: of the batch.
        open_it: loads it.
        yardstick: run in every round.
        settings: how to measure.
        goes_on: told the rounds of this pass so far, says whether another may begin.
        advance: called after each round.
    """
    start = time.monotonic()
    opened = open_it()
    opening_s = time.monotonic() - start
    opened.round()
    pass_s = max(settings.max_pass_s, OPENINGS_PER_PASS * opening_s)
    begun = time.monotonic()
    yardstick_ms: list[float] = []
    model_ms: list[tuple[float, float] | None] = []
    while not yardstick_ms or (
        goes_on(len(yardstick_ms))
        and len(yardstick_ms) < MAX_PASS_ROUNDS
        and (len(yardstick_ms) < LEAST_PASS_ROUNDS or time.monotonic() - begun < pass_s)
    ):
        yardstick_ms.append(yardstick.time_ms())
        model_ms.append(opened.round())
        advance()
    # The first burst of each timer only warmed up.
    times = opened.times_ms([None, *model_ms])[1:]
    share_s = (time.monotonic() - start) / len(yardstick_ms)
    return list(_rounds(number, yardstick_ms, times, share_s))


def _rounds(
    number: int, yardstick_ms: Sequence[float], times: NDArray[np.float64], duration_s: float
) -> Iterator[Round]:
    for reference, row in zip(yardstick_ms, times.tolist(), strict=True):
        yield Round(number, reference, tuple(row), duration_s)


def _means_of_forms(batch: Batch, times: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over the copies of each form, ``[rounds, forms]``: what they add to a model."""
    sums = np.zeros((len(times[0]), len(batch.forms)))
    counts = np.zeros(len(batch.forms))
    for places, rows in zip(batch.places, times, strict=True):
        for column, place in enumerate(places):
            sums[:, place] += rows[:, column]
            counts[place] += 1
    means: NDArray[np.float64] = sums / counts
    return means
