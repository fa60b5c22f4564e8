"""What came out of trying a plan; needs no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from cost_models import DeviceProfile
from spartan_planner.planning import Plan


@dataclass(frozen=True)
class TrialRound:
    """One plan, measured.

    All latencies are at the device's speed while profiling: what was measured is divided by
    ``device_speed_ratio``.

    Attributes:
        asked_ms: the limit on latency; ``None`` where the budget is on other costs.
        predicted_ms: latency of the pruned and lowered file.
        measured_ms: the same; ``measured_dense_ms`` over the speed-up measured in this round.
        predicted_dense_ms: latency of the dense file.
        measured_dense_ms: the same; median of this round and all before it, in each of which the
            same file was measured.
        scatter: share by which ``measured_ms`` may well be off: half the range of the rounds'
            dense latencies or half the 95 % interval of the speed-up, whichever is more.
        device_speed_ratio: yardstick time now over its time in the profile; above 1 the device
            is slower now.
    """

    asked_ms: float | None
    predicted_ms: float
    measured_ms: float
    predicted_dense_ms: float
    measured_dense_ms: float
    scatter: float
    device_speed_ratio: float

    @property
    def error(self) -> float:
        """``measured / predicted - 1`` of the pruned file."""
        return self.measured_ms / self.predicted_ms - 1

    @property
    def dense_error(self) -> float:
        """The same of the dense file, of which limits asked for as a share are a share."""
        return self.measured_dense_ms / self.predicted_dense_ms - 1

    @property
    def worst_error(self) -> float:
        """The greater of both, without its sign."""
        return max(abs(self.error), abs(self.dense_error))


@dataclass(frozen=True)
class Trial:
    """A plan that was tried.

    Attributes:
        plan: the last plan.
        profile: the profile behind it, recalibrated in every round but the first.
        rounds: what was measured, in order; empty where this device does not compare.
        reason: why predicted and measured latency, dense or pruned, do not agree; ``None`` where
            they do.
    """

    plan: Plan
    profile: DeviceProfile
    rounds: tuple[TrialRound, ...]
    reason: str | None

    @property
    def agrees(self) -> bool:
        """Whether predicted and measured latency of the last plan agree."""
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "rounds": [
                {**asdict(item), "error": item.error, "dense_error": item.dense_error}
                for item in self.rounds
            ],
            "agrees": self.agrees,
            "reason": self.reason,
        }
