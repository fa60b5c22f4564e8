"""The device profile: facts about a device, and what was measured on it, where, when and how."""

import datetime
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from cost_models.device_facts import Category, DeviceFacts, Roofline
from cost_models.documents import document
from cost_models.figures import (
    require_not_negative,
    require_positive,
)
from cost_models.layer_timing import LayerTiming, ModelTiming
from cost_models.shape_family import Family, family
from cost_models.shapes_digest import shapes_digest
from cost_models.workload import LayerShape, Workload

PROFILE_SCHEMA_VERSION = 2

UNKNOWN = "unknown"
"""What stands where nobody wrote down when, or by which frequency governor, it was measured."""

_MOST_THREADS = 2**16
"""More threads than any machine runs; more threads than cores are allowed, if seldom wise."""

_GREATEST_FACTOR = 1e3
"""A layer inside a model does not take a thousand times, or a thousandth of, its time apart."""


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
        require_positive(self, "num_cores", "num_threads")
        require_not_negative(self, "load_average")
        for name in ("num_cores", "num_threads"):
            if getattr(self, name) > _MOST_THREADS:
                raise ValueError(f"{name} must be at most {_MOST_THREADS}")


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


_FIT_ERRORS = ("median_fit_error", "max_fit_error")


@document
@dataclass(frozen=True)
class Provenance:
    """Where the figures of a profile come from.

    Attributes:
        source: ``measured``, the only kind that holds layer timings.
        date: when, ISO 8601 in UTC; ``unknown`` for figures that others took without saying.
        versions: versions of the packages that took part.
        num_rounds: interleaved rounds; the half in which the device was quietest counts.
        duration_s: how long the measurement took.
        yardstick_ms: median time of the yardstick network during the measurement; timing it
            again tells how fast the device is now compared with then.
        median_fit_error: median of ``|fitted / measured - 1|`` over all samples of fits to more
            points than the line has free figures; ``None`` where there is no such fit.
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
    median_fit_error: float | None
    max_fit_error: float | None
    in_situ_factors: dict[str, float] = field(default_factory=dict)
    widest_half_width: float | None = None
    pinned_cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a measurement without rounds and figures below zero."""
        require_positive(self, "num_rounds", "yardstick_ms")
        known = [name for name in _FIT_ERRORS if getattr(self, name) is not None]
        require_not_negative(self, "duration_s", *known)
        if (self.median_fit_error or 0.0) > (self.max_fit_error or 0.0):
            raise ValueError("median_fit_error must not exceed max_fit_error")
        _require_date(self.date)
        for name, factor in self.in_situ_factors.items():
            if not 1 / _GREATEST_FACTOR <= factor <= _GREATEST_FACTOR:
                raise ValueError(
                    f"in_situ_factors.{name} must lie between {1 / _GREATEST_FACTOR:g} and "
                    f"{_GREATEST_FACTOR:g}, found {factor:g}"
                )
        if self.widest_half_width is not None:
            require_not_negative(self, "widest_half_width")
        if any(not 0 <= core < _MOST_THREADS for core in self.pinned_cores):
            raise ValueError("pinned_cores must hold numbers of cores, from 0")
        _require_distinct("pinned_cores", "core", self.pinned_cores)


def _require_date(text: str) -> None:
    if text == UNKNOWN:
        return
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"date must be ISO 8601, such as 2025-01-31T12:00:00+00:00, or {UNKNOWN!r}, found "
            f"{text!r}"
        ) from error


def _require_distinct(field_name: str, kind: str, items: Iterable[Hashable]) -> None:
    held = list(items)
    if len(set(held)) != len(held):
        raise ValueError(f"{field_name} must not hold the same {kind} twice")


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
        require_not_negative(self, "run_overhead_ms")
        if (self.layers or self.models) and self.measurement is None:
            raise ValueError("a profile with timings must say in 'measurement' how they were taken")
        _require_distinct("layers", "shape", (layer.shape for layer in self.layers))
        _require_distinct("models", "fingerprint", (model.fingerprint for model in self.models))

    def timing(self, shape: LayerShape) -> LayerTiming | None:
        """Return the times of a shape, or ``None`` when it was not measured."""
        return self._by_shape.get(shape)

    def relatives(self, shape: LayerShape) -> Sequence[LayerTiming]:
        """Return the times of shapes that differ from one in channels (and bias) only."""
        return self._by_family.get(family(shape), ())

    @cached_property
    def _by_shape(self) -> dict[LayerShape, LayerTiming]:
        return {layer.shape: layer for layer in self.layers}

    @cached_property
    def _by_family(self) -> dict[Family, list[LayerTiming]]:
        found: dict[Family, list[LayerTiming]] = {}
        for layer in self.layers:
            found.setdefault(family(layer.shape), []).append(layer)
        return found

    def model_timing(self, workload: Workload) -> ModelTiming | None:
        """Return the times of a whole model, or ``None`` when it was not measured at its shapes."""
        wanted = workload.fingerprint, shapes_digest(workload)
        found = (item for item in self.models if (item.fingerprint, item.shapes_digest) == wanted)
        return next(found, None)
