"""How to measure."""

import math
from dataclasses import dataclass

from spartan_planner.errors import ProfileError
from spartan_planner.runtimes import DEFAULT_RUNTIME


@dataclass(frozen=True)
class ProfileSettings:
    """How to measure.

    Attributes:
        name: what to call the device.
        num_threads: threads of the runtime.
        num_rounds: interleaved rounds at most.
        max_duration_s: time after which no further round begins; at least ``min_rounds`` are run.
        min_rounds: rounds below which no median is trusted; they are run however long they take.
        max_half_width: measuring ends when the 95 % intervals of the figures that carry most of
            the time are no wider to each side than this share of the figure.
        max_pass_s: after about this time, but not before a few rounds, networks are loaded anew,
            and what was measured is kept on disk when a run can be resumed.
        runtime: name of the runtime to measure.
        provider: what of the runtime shall compute; the CPU by default.
        is_pinned: whether the process is kept on as many cores as it has threads.
        whole_model: whether the whole model is run too, where the workload holds its graph.
        with_channels: whether layers are measured dense at fewer channels too, also where the
            workload names no channel groups.
    """

    name: str = "this-device"
    num_threads: int = 1
    num_rounds: int = 200
    max_duration_s: float = 120.0
    min_rounds: int = 5
    max_half_width: float = 0.03
    max_pass_s: float = 10.0
    runtime: str = DEFAULT_RUNTIME
    provider: str = ""
    is_pinned: bool = False
    whole_model: bool = True
    with_channels: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        if not self.name.strip():
            raise ProfileError("the name of the device is empty; say what to call it")
        if self.num_threads < 1 or self.min_rounds < 1 or not self.max_duration_s > 0:
            raise ProfileError("threads, rounds and duration must be positive")
        if self.num_rounds < self.min_rounds:
            raise ProfileError(f"at least {self.min_rounds} rounds are needed for a median")
        if not 0 <= self.max_half_width < math.inf or not self.max_pass_s > 0:
            raise ProfileError(
                "the half-width of an interval must be a share such as 0.03, and the time of a "
                "pass positive"
            )
