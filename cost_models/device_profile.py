"""The device profile: what was measured on a device, where, when and with what."""

from dataclasses import dataclass
from typing import Literal

from cost_models.documents import document
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerShape

PROFILE_SCHEMA_VERSION = 1


@document
@dataclass(frozen=True)
class Device:
    """The machine that was measured.

    Attributes:
        cpu: the processor's name as the system reports it.
        architecture: such as ``x86_64``.
        num_cores: logical processors that the measuring process could use.
        num_threads: threads of the runtime while measuring.
        governor: frequency governor, or ``unknown`` where the system does not tell.
        load_average: load of the last minute when measuring began.
    """

    cpu: str
    architecture: str
    num_cores: int
    num_threads: int
    governor: str
    load_average: float


@document
@dataclass(frozen=True)
class Runtime:
    """The inference runtime that was measured.

    Attributes:
        name: such as ``onnxruntime``.
        version: its version.
        provider: its execution provider.
    """

    name: str
    version: str
    provider: str


@document
@dataclass(frozen=True)
class Provenance:
    """Where the figures of a profile come from.

    Attributes:
        source: ``measured``, the only kind that holds layer timings.
        date: when, ISO 8601 in UTC.
        versions: versions of the packages that took part.
        num_rounds: interleaved rounds; the half in which the device was quietest counts.
        duration_s: how long the measurement took.
        yardstick_ms: median time of the yardstick network during the measurement; timing it
            again tells how fast the device is now compared with then.
        median_fit_error: median over all samples of ``|fitted / measured - 1|``.
        max_fit_error: largest of the same.
    """

    source: Literal["measured"]
    date: str
    versions: dict[str, str]
    num_rounds: int
    duration_s: float
    yardstick_ms: float
    median_fit_error: float
    max_fit_error: float


@document
@dataclass(frozen=True)
class Sample:
    """One measured point: so many whole blocks kept took so long."""

    num_kept_blocks: int
    latency_ms: float


@document
@dataclass(frozen=True)
class SparseTiming:
    """The fitted time of the lowered form of a layer in one layout.

    Attributes:
        layout: text form of the layout.
        fixed_ms, per_block_ms: the fit ``fixed_ms + per_block_ms * kept blocks``.
        max_fit_error: largest ``|fitted / measured - 1|`` over the samples.
        samples: what was measured.
    """

    layout: str
    fixed_ms: float
    per_block_ms: float
    max_fit_error: float
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Refuse unknown layouts and negative times."""
        Layout.parse(self.layout)
        if self.fixed_ms < 0 or self.per_block_ms < 0:
            raise ValueError("fixed_ms and per_block_ms must not be negative")


@document
@dataclass(frozen=True)
class LayerTiming:
    """The times of one distinct layer shape.

    Attributes:
        shape: the shape.
        dense_ms: median time of the dense form.
        relative_spread: half the interquartile range of the dense form over its median.
        sparse: the lowered forms that were measured.
    """

    shape: LayerShape
    dense_ms: float
    relative_spread: float
    sparse: tuple[SparseTiming, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that are not positive."""
        if self.dense_ms <= 0:
            raise ValueError("dense_ms must be positive")

    def linear_cost(self, sparse: SparseTiming) -> LinearCost:
        """Return the linear cost of one of the sparse forms."""
        return LinearCost(self.dense_ms, sparse.fixed_ms, sparse.per_block_ms, "ms")

    def break_even_density(self, sparse: SparseTiming) -> float:
        """Return the density under which that sparse form beats the dense one."""
        num_blocks = Layout.parse(sparse.layout).num_whole_blocks(self.shape.weight_shape)
        return self.linear_cost(sparse).break_even_density(num_blocks)


@document
@dataclass(frozen=True)
class DeviceProfile:
    """A device's profile.

    Attributes:
        schema_version: version of this document.
        name: what the user calls the device.
        device, runtime, provenance: what was measured, with what, and how.
        run_overhead_ms: time of one run that no layer accounts for.
        layers: the times of every measured shape.
    """

    schema_version: Literal[1]
    name: str
    device: Device
    runtime: Runtime
    provenance: Provenance
    run_overhead_ms: float
    layers: tuple[LayerTiming, ...]

    def timing(self, shape: LayerShape) -> LayerTiming | None:
        """Return the times of a shape, or ``None`` when it was not measured."""
        return next((layer for layer in self.layers if layer.shape == shape), None)
