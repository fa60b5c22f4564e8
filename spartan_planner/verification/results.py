"""What verifying found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Speedup:
    """How many times faster the sparse file is.

    Attributes:
        predicted: dense over predicted latency, as planned.
        measured: median over the quiet rounds of dense over sparse time.
        ci95: bootstrap interval of that median.
    """

    predicted: float | None
    measured: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class FileSize:
    """What a model takes on disk, its external data included.

    Attributes:
        num_bytes: as it is.
        num_compressed_bytes: compressed by zlib at its default level; ``None`` where not tried.
    """

    num_bytes: int
    num_compressed_bytes: int | None

    def to_json(self) -> dict[str, int | None]:
        """Return the figures as plain data."""
        return {"bytes": self.num_bytes, "compressed_bytes": self.num_compressed_bytes}


@dataclass(frozen=True)
class LayerTime:
    """A layer, measured by the runtime's own profiler inside the whole model.

    Attributes:
        name: of the layer; :data:`REST` for all nodes of no layer together.
        layout: in which it is lowered; ``dense`` where it is not.
        measured_ms: median time of its nodes, at the device's speed now.
        predicted_ms: at the same speed; ``None`` where nothing was predicted for this runtime.
        ok: whether measured is at most predicted and the tolerance; ``None`` without prediction.
    """

    name: str
    layout: str
    measured_ms: float
    predicted_ms: float | None
    ok: bool | None

    @property
    def excess_ms(self) -> float:
        """By how much it takes longer than predicted; 0 where nothing was predicted."""
        return 0.0 if self.predicted_ms is None else self.measured_ms - self.predicted_ms

    def to_json(self) -> dict[str, object]:
        """Return the figures as plain data."""
        return {
            "name": self.name,
            "layout": self.layout,
            "measured_ms": self.measured_ms,
            "predicted_ms": self.predicted_ms,
            "ok": self.ok,
        }


REST = "(rest)"


@dataclass(frozen=True)
class Verification:
    """What was measured, beside what was promised.

    All latencies are in ms at the device's speed during verification: what was predicted, and
    what was asked as a share of dense, is multiplied by ``device_speed_ratio``.  A limit that was
    asked for in ms stays as it is.

    Attributes:
        sparse_ms: median latency of the file.
        dense_ms: median latency of the dense file, when one was given.
        asked_ms, predicted_ms: the promise, when the file makes one.
        speedup: of the sparse over the dense file, when one was given.
        device_speed_ratio: yardstick time now over its time in the profile; above 1 the device
            is slower now.  1 when there is no promise to compare with.
        num_rounds: rounds that were run; the half in which the device was quietest counts.
        num_threads: threads of the runtime.
        ok: whether the measured latency keeps the promise within the tolerance, and the outputs
            agree where they were compared; ``None`` when there was nothing to keep.
        notes: what a reader of the figures must know.
        runtime: name and version of the runtime.
        max_abs_error: largest difference between the outputs of the two files, where both hold the
            same weights; ``None`` where they do not, or no second file was given.
        sparse_size, dense_size: of the files.
        layers: times of the layers of the plan and of the rest; empty where the file tells none.
    """

    sparse_ms: float
    dense_ms: float | None
    asked_ms: float | None
    predicted_ms: float | None
    speedup: Speedup | None
    device_speed_ratio: float
    num_rounds: int
    num_threads: int
    ok: bool | None
    notes: tuple[str, ...] = ()
    runtime: str = ""
    max_abs_error: float | None = None
    sparse_size: FileSize | None = None
    dense_size: FileSize | None = None
    layers: tuple[LayerTime, ...] = ()

    @property
    def missed_layers(self) -> tuple[LayerTime, ...]:
        """The layers that take longer than predicted and tolerated, the greatest excess first."""
        missed = (item for item in self.layers if item.ok is False)
        return tuple(sorted(missed, key=lambda item: -item.excess_ms))

    def to_json(self) -> dict[str, object]:
        """Return the figures as plain data."""
        speedup = self.speedup
        return {
            "latency_ms": {
                "dense": self.dense_ms,
                "sparse": self.sparse_ms,
                "asked": self.asked_ms,
                "predicted": self.predicted_ms,
            },
            "speedup": speedup
            and {
                "measured": speedup.measured,
                "ci95": list(speedup.ci95),
                "predicted": speedup.predicted,
            },
            "max_abs_error": self.max_abs_error,
            "size": {
                "sparse": self.sparse_size and self.sparse_size.to_json(),
                "dense": self.dense_size and self.dense_size.to_json(),
            },
            "nodes": [item.to_json() for item in self.layers],
            "device_speed_ratio": self.device_speed_ratio,
            "num_rounds": self.num_rounds,
            "num_threads": self.num_threads,
            "runtime": self.runtime,
            "ok": self.ok,
            "notes": list(self.notes),
        }
