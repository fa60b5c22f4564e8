"""Facts about a device, each with its source, and how near layers come to the bounds they set."""

import re
from dataclasses import dataclass, field
from typing import Literal

from cost_models.documents import document
from cost_models.figures import (
    GREATEST_FIGURE,
    LEAST_FIGURE,
    require_not_negative,
    require_positive,
)

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

LAYER_CLASSES = (
    *("conv", "pointwise", "depthwise", "grouped", "linear", "vector", "embedding"),
    *("transposed", "lowered", "lowered_linear", "any"),
)
"""Classes of layers whose efficiencies a roofline states; ``any`` stands for all it leaves out."""

_N_M_PATTERN = re.compile(r"([1-9]\d?):([1-9]\d?)")


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
        source: measured on the device, stated by its maker, or published by others who measured
            or derived it.
        reference: how it was measured, or title and address of the data sheet.
    """

    value: float
    source: Literal["measured", "data_sheet", "published"]
    reference: str

    def __post_init__(self) -> None:
        """Refuse figures that are not positive and figures without a reference."""
        require_positive(self, "value")
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
        """Refuse unknown classes and efficiencies that are not positive."""
        if self.layer_class not in LAYER_CLASSES:
            known = ", ".join(LAYER_CLASSES)
            raise ValueError(f"layer_class must be one of {known}, found {self.layer_class!r}")
        require_positive(self, "compute_efficiency", "bandwidth_efficiency")
        require_not_negative(self, "overhead_ms")


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
        if not LEAST_FIGURE <= low <= 1 <= high <= GREATEST_FIGURE:
            raise ValueError("error_band must hold 1, such as [0.5, 2.0]")
        if self.median_error is not None:
            require_not_negative(self, "median_error")
