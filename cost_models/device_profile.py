"""The device profile: facts about a device, and what was measured on it, where, when and how."""

import re
from dataclasses import dataclass, field
from typing import Literal

from cost_models.documents import document
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerShape

PROFILE_SCHEMA_VERSION = 2

Category = Literal[
    "data-centre GPU",
    "desktop GPU",
    "embedded GPU",
    "x86 CPU",
    "Arm CPU",
    "phone NPU",
    "microcontroller",
    "unknown",
]

ELEMENT_TYPES = ("float64", "float32", "float16", "bfloat16", "int8")
"""Element types of which a device's rates and energies are stated."""

_LEAST_FIGURE, _GREATEST_FIGURE = 1e-12, 1e15
"""Beyond these no device has a figure in any unit used here, and sums of figures stay finite."""

_N_M_PATTERN = re.compile(r"([1-9]\d?):([1-9]\d?)")


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        figure = getattr(owner, name)
        if not _LEAST_FIGURE <= figure <= _GREATEST_FIGURE:
            raise ValueError(f"{name} must be positive and at most {_GREATEST_FIGURE:g}")


def _require_not_negative(owner: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(owner, name) <= _GREATEST_FIGURE:
            raise ValueError(f"{name} must not be negative, and at most {_GREATEST_FIGURE:g}")


def _require_known_types(name: str, stated: dict[str, "Fact"]) -> None:
    unknown = [key for key in stated if key not in ELEMENT_TYPES]
    if unknown:
        known = ", ".join(ELEMENT_TYPES)
        raise ValueError(f"{name} is by element type ({known}), not {unknown[0]!r}")


@document
@dataclass(frozen=True)
class Fact:
    """One figure of a device and where it comes from.

    Attributes:
        value: the figure, in the unit that the fact's name ends in.
        source: measured on the device, or stated by its maker.
        reference: how it was measured, or title and address of the data sheet.
    """

    value: float
    source: Literal["measured", "data_sheet"]
    reference: str

    def __post_init__(self) -> None:
        """Refuse figures that are not positive and figures without a reference."""
        _require_positive(self, "value")
        if not self.reference.strip():
            raise ValueError("reference must say where the figure comes from")


@document
@dataclass(frozen=True)
class DeviceFacts:
    """What bounds every layer on a device.

    Attributes:
        peak_gflop_per_s: by element type (``float32``, ``float16``, ``bfloat16``, ``int8``), the
            greatest rate of dense arithmetic, two operations per multiply-add.
        bandwidth_gb_per_s: rate at which memory is read (1 GB = 1e9 bytes).
        launch_overhead_us: least time of one operation in a running network.
        energy_pj_per_mac: by element type, energy of one multiply-add.
        energy_pj_per_byte: energy of moving one byte between memory and arithmetic.
        memory_gb: capacity of the memory that holds the weights.
        sparse_speedups: by n:m pattern (such as ``2:4``), peak rate over the dense peak.
    """

    peak_gflop_per_s: dict[str, Fact]
    bandwidth_gb_per_s: Fact
    launch_overhead_us: Fact
    energy_pj_per_mac: dict[str, Fact] = field(default_factory=dict)
    energy_pj_per_byte: Fact | None = None
    memory_gb: Fact | None = None
    sparse_speedups: dict[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a device of which no rate of arithmetic is known, and unknown types."""
        if not self.peak_gflop_per_s:
            raise ValueError("peak_gflop_per_s must state the peak of at least one element type")
        _require_known_types("peak_gflop_per_s", self.peak_gflop_per_s)
        _require_known_types("energy_pj_per_mac", self.energy_pj_per_mac)
        for pattern in self.sparse_speedups:
            match = _N_M_PATTERN.fullmatch(pattern)
            if match is None or int(match[1]) >= int(match[2]):
                raise ValueError(f"sparse_speedups is by pattern, such as 2:4, not {pattern!r}")


@document
@dataclass(frozen=True)
class RooflineClass:
    """How near layers of one class come to a device's bounds.

    Attributes:
        layer_class: such as ``conv``, ``pointwise``, ``depthwise``, ``linear``.
        compute_efficiency: reached share of the peak rate of arithmetic.
        bandwidth_efficiency: reached share of the bandwidth.
        overhead_ms: time of a layer that neither explains.
        is_pooled: whether too few layers of the class were measured for a fit of its own: it is
            the fit of all layers, scaled to those few.
    """

    layer_class: str
    compute_efficiency: float
    bandwidth_efficiency: float
    overhead_ms: float
    is_pooled: bool = False

    def __post_init__(self) -> None:
        """Refuse efficiencies that are not positive."""
        _require_positive(self, "compute_efficiency", "bandwidth_efficiency")
        _require_not_negative(self, "overhead_ms")


@document
@dataclass(frozen=True)
class Roofline:
    """Times of layers that were not measured, from facts and efficiencies.

    Attributes:
        classes: efficiencies by class of layer.
        is_calibrated: whether they were fitted to this device's measurements; otherwise they are
            typical ones.
        error_band: least and greatest factor between measured and estimated time to expect.
        median_error: median of ``|estimated / measured - 1|`` over shapes that were left out of
            the fit one at a time; ``None`` where nothing was measured.
    """

    classes: tuple[RooflineClass, ...]
    is_calibrated: bool
    error_band: tuple[float, float]
    median_error: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty table and a band that does not hold the estimate itself."""
        low, high = self.error_band
        if not self.classes:
            raise ValueError("classes must not be empty")
        names = [item.layer_class for item in self.classes]
        if len(set(names)) != len(names):
            raise ValueError("classes must not hold the same layer_class twice")
        if not _LEAST_FIGURE <= low <= 1 <= high <= _GREATEST_FIGURE:
            raise ValueError("error_band must hold 1, such as [0.5, 2.0]")
        if self.median_error is not None:
            _require_not_negative(self, "median_error")


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

    def __post_init__(self) -> None:
        """Refuse machines without cores."""
        _require_positive(self, "num_cores", "num_threads")
        _require_not_negative(self, "load_average")


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
        in_situ_factors: where the whole model was run, by class of layer, the time of its layers
            inside the model over the sum of their times apart from it, by which the times of the
            layers were multiplied; ``all`` where classes could not be told apart.
        widest_half_width: largest half-width of a 95 % interval, over its figure, among the
            figures that carry most of the time; ``None`` after too few rounds for one.
        pinned_cores: cores that the process was kept on; empty where it was not.
    """

    source: Literal["measured"]
    date: str
    versions: dict[str, str]
    num_rounds: int
    duration_s: float
    yardstick_ms: float
    median_fit_error: float
    max_fit_error: float
    in_situ_factors: dict[str, float] = field(default_factory=dict)
    widest_half_width: float | None = None
    pinned_cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a measurement without rounds and figures below zero."""
        _require_positive(self, "num_rounds", "yardstick_ms")
        _require_not_negative(self, "duration_s", "median_fit_error", "max_fit_error")


@document
@dataclass(frozen=True)
class Sample:
    """One measured point: so many whole blocks kept took so long."""

    num_kept_blocks: int
    latency_ms: float

    def __post_init__(self) -> None:
        """Refuse figures that nobody can have measured."""
        _require_not_negative(self, "num_kept_blocks")
        _require_positive(self, "latency_ms")


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
        _require_not_negative(self, "fixed_ms", "per_block_ms", "max_fit_error")


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
        """Refuse times that are not positive, and one layout timed twice."""
        _require_positive(self, "dense_ms")
        _require_not_negative(self, "relative_spread")
        layouts = [sparse.layout for sparse in self.sparse]
        if len(set(layouts)) != len(layouts):
            raise ValueError("sparse must not hold the same layout twice")

    def linear_cost(self, sparse: SparseTiming) -> LinearCost:
        """Return the linear cost of one of the sparse forms."""
        return LinearCost(self.dense_ms, sparse.fixed_ms, sparse.per_block_ms, "ms")

    def break_even_density(self, sparse: SparseTiming) -> float:
        """Return the density under which that sparse form beats the dense one."""
        num_blocks = Layout.parse(sparse.layout).num_whole_blocks(self.shape.weight_shape)
        return self.linear_cost(sparse).break_even_density(num_blocks)


@document
@dataclass(frozen=True)
class ModelTiming:
    """A whole dense model, measured.

    Attributes:
        model: what the workload calls it.
        fingerprint: the workload's.
        dense_ms: time of one run.
        layers_ms: the part of it that belongs to layers.
        rest_ms: the part that belongs to no layer: other operations and the run itself.
    """

    model: str
    fingerprint: str
    dense_ms: float
    layers_ms: float
    rest_ms: float

    def __post_init__(self) -> None:
        """Refuse times that are not positive."""
        _require_positive(self, "dense_ms", "layers_ms")
        _require_not_negative(self, "rest_ms")


@document
@dataclass(frozen=True)
class Measurement:
    """What was measured, with what, and how."""

    device: Device
    runtime: Runtime
    provenance: Provenance


@document
@dataclass(frozen=True)
class DeviceProfile:
    """A device's profile.

    Attributes:
        schema_version: version of this document.
        name: what the user calls the device.
        category: what kind of device it is.
        facts: what bounds every layer.
        roofline: efficiencies for layers that were not measured.
        measurement: the circumstances of the timings; ``None`` where there are none.
        run_overhead_ms: time of one run that no operation accounts for.
        layers: the times of every measured shape.
        models: whole models that were measured.
    """

    schema_version: Literal[2]
    name: str
    category: Category
    facts: DeviceFacts
    roofline: Roofline
    measurement: Measurement | None = None
    run_overhead_ms: float = 0.0
    layers: tuple[LayerTiming, ...] = ()
    models: tuple[ModelTiming, ...] = ()

    def __post_init__(self) -> None:
        """Refuse timings of which nobody knows where they come from."""
        if not self.name.strip():
            raise ValueError("name must say what the device is called")
        _require_not_negative(self, "run_overhead_ms")
        if (self.layers or self.models) and self.measurement is None:
            raise ValueError("a profile with timings must say in 'measurement' how they were taken")
        shapes = [layer.shape for layer in self.layers]
        if len(set(shapes)) != len(shapes):
            raise ValueError("layers must not hold the same shape twice")

    def timing(self, shape: LayerShape) -> LayerTiming | None:
        """Return the times of a shape, or ``None`` when it was not measured."""
        return next((layer for layer in self.layers if layer.shape == shape), None)

    def model_timing(self, fingerprint: str) -> ModelTiming | None:
        """Return the times of a whole model, or ``None`` when it was not measured."""
        return next((model for model in self.models if model.fingerprint == fingerprint), None)
