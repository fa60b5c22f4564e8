"""How to verify."""

import math
from dataclasses import dataclass

from spartan_planner.errors import UsageError

RUNTIMES = ("onnxruntime", "openvino")
"""The runtimes that run ONNX files."""

_MIN_ROUNDS = 5


@dataclass(frozen=True)
class VerifySettings:
    """How to verify.

    Attributes:
        num_rounds: interleaved rounds.
        num_threads: threads of the runtime; those of the profile by default, else one.
        tolerance: share by which the measured latency may exceed what was asked.
        runtime: ``onnxruntime`` or ``openvino``, on the CPU.
        is_detailed: whether layers are timed one by one and files are compressed as well.
    """

    num_rounds: int = 60
    num_threads: int | None = None
    tolerance: float = 0.10
    runtime: str = "onnxruntime"
    is_detailed: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that prove nothing."""
        if self.num_rounds < _MIN_ROUNDS:
            raise UsageError(f"at least {_MIN_ROUNDS} rounds are needed for a median")
        if self.num_threads is not None and self.num_threads < 1:
            raise UsageError("threads must be at least 1")
        if not 0 <= self.tolerance < math.inf:
            raise UsageError("tolerance must be a share such as 0.1")
        if self.runtime not in RUNTIMES:
            raise UsageError(
                f"runtime {self.runtime!r} runs no ONNX file; use {' or '.join(RUNTIMES)}"
            )
