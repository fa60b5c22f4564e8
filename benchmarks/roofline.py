"""How well the roofline estimates layers that it was not fitted to.

Takes profiles of several models measured on one device, puts their times on one scale by their
yardsticks, joins their shapes, and estimates each by a roofline fitted without it:

    python benchmarks/roofline.py resnet50.yaml mobilenet_v2.yaml vit_b_16.yaml
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cost_models import (
    CostModelError,
    DeviceFacts,
    DeviceProfile,
    Fact,
    LayerShape,
    LayerTiming,
    Measurement,
    Sample,
    SparseTiming,
    read_document,
)
from spartan_planner.profiling.roofline_fit import HeldOut, fit_roofline, held_out_estimates

RESULTS = Path(__file__).parent / "results"
ALL_DENSE, ALL = "all dense", "all"


@dataclass(frozen=True)
class Row:
    """Held-out errors of one class of layers.

    Attributes:
        layer_class: the class; ``lowered`` for all lowered forms.
        num_shapes: distinct shapes.
        num_estimates: dense and lowered forms; one per shape and layout.
        median_error, greatest_error: of ``|estimated / measured - 1|``.
    """

    layer_class: str
    num_shapes: int
    num_estimates: int
    median_error: float
    greatest_error: float


def joined_layers(profiles: Sequence[DeviceProfile]) -> tuple[LayerTiming, ...]:
    """Return the layers of all profiles, at the speed that the first had by its yardstick.

    A shape that several measured counts once, as the first measured it.

    Raises:
        CostModelError: a profile holds no measurement, or is of another device or runtime.
    """
    scale_ms = _measurement(profiles[0]).provenance.yardstick_ms
    found: dict[LayerShape, LayerTiming] = {}
    for profile in profiles:
        measured = _measurement(profile)
        if _place(measured) != _place(_measurement(profiles[0])):
            raise CostModelError(
                f"profile {profile.name!r} is of {_place(measured)}, the first of "
                f"{_place(_measurement(profiles[0]))}; give profiles of one device and runtime"
            )
        factor = scale_ms / measured.provenance.yardstick_ms
        for layer in profile.layers:
            found.setdefault(layer.shape, _scaled(layer, factor))
    return tuple(found.values())


def joined_facts(profiles: Sequence[DeviceProfile]) -> DeviceFacts:
    """Return the facts of the first profile with the medians of all in their place."""
    facts = [profile.facts for profile in profiles]
    peaks = {
        name: _median(item.peak_gflop_per_s[name] for item in facts)
        for name in facts[0].peak_gflop_per_s
        if all(name in item.peak_gflop_per_s for item in facts)
    }
    return replace(
        facts[0],
        peak_gflop_per_s=peaks,
        bandwidth_gb_per_s=_median(item.bandwidth_gb_per_s for item in facts),
        launch_overhead_us=_median(item.launch_overhead_us for item in facts),
    )


def rows_of(held_out: Sequence[HeldOut]) -> tuple[Row, ...]:
    """Return one row per class, then of all dense forms and of all."""
    dense = [item for item in held_out if not item.layout]
    classes = dict.fromkeys(item.layer_class for item in held_out)
    groups = {name: [item for item in held_out if item.layer_class == name] for name in classes}
    groups |= {ALL_DENSE: dense, ALL: list(held_out)}
    return tuple(_row(name, items) for name, items in groups.items() if items)


def results_of(profiles: Sequence[DeviceProfile]) -> dict[str, object]:
    """Return the table with the facts and circumstances behind it, as plain data."""
    layers, facts = joined_layers(profiles), joined_facts(profiles)
    roofline = fit_roofline(layers, facts)
    return {
        "device": _place(_measurement(profiles[0])),
        "versions": _measurement(profiles[0]).provenance.versions,
        "models": [model.model for profile in profiles for model in profile.models],
        "peak_gflop_per_s": {name: fact.value for name, fact in facts.peak_gflop_per_s.items()},
        "bandwidth_gb_per_s": facts.bandwidth_gb_per_s.value,
        "launch_overhead_us": facts.launch_overhead_us.value,
        "error_band": list(roofline.error_band),
        "rows": [asdict(row) for row in rows_of(held_out_estimates(layers, facts))],
    }


def table(results: dict[str, object], rows: Iterable[Row]) -> str:
    """Return what a person reads."""
    lines = [
        "Roofline: error of estimates, each shape left out of the fit",
        f"device: {results['device']}",
        f"measured over estimated, 5th to 95th percentile: {results['error_band']}",
        "",
        f"{'class':12} {'shapes':>7} {'forms':>6} {'median':>8} {'greatest':>9}",
    ]
    lines += [
        f"{row.layer_class:12} {row.num_shapes:7d} {row.num_estimates:6d} "
        f"{row.median_error:8.1%} {row.greatest_error:9.1%}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _measurement(profile: DeviceProfile) -> Measurement:
    if profile.measurement is None or not profile.layers:
        raise CostModelError(
            f"profile {profile.name!r} holds no timings; give profiles that 'spartan-planner "
            "profile' made"
        )
    return profile.measurement


def _place(measured: Measurement) -> str:
    device, runtime = measured.device, measured.runtime
    return (
        f"{device.cpu}, {runtime.name} {runtime.version} {runtime.provider}, "
        f"{device.num_threads} thread(s)"
    )


def _scaled(layer: LayerTiming, factor: float) -> LayerTiming:
    return replace(
        layer,
        dense_ms=layer.dense_ms * factor,
        sparse=tuple(_scaled_sparse(item, factor) for item in layer.sparse),
    )


def _scaled_sparse(sparse: SparseTiming, factor: float) -> SparseTiming:
    return replace(
        sparse,
        fixed_ms=sparse.fixed_ms * factor,
        per_block_ms=sparse.per_block_ms * factor,
        samples=tuple(
            Sample(item.num_kept_blocks, item.latency_ms * factor) for item in sparse.samples
        ),
    )


def _median(facts: Iterable[Fact]) -> Fact:
    known = list(facts)
    return replace(known[0], value=statistics.median(fact.value for fact in known))


def _row(name: str, items: Sequence[HeldOut]) -> Row:
    errors = [item.relative_error for item in items]
    return Row(
        layer_class=name,
        num_shapes=len({item.shape for item in items}),
        num_estimates=len(items),
        median_error=round(statistics.median(errors), 4),
        greatest_error=round(max(errors), 4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="+", type=Path, help="profiles of one device")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    profiles = [read_document(path, DeviceProfile, "profile") for path in arguments.profiles]
    results = results_of(profiles)
    held_out = held_out_estimates(joined_layers(profiles), joined_facts(profiles))
    text = table(results, rows_of(held_out))
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "roofline.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    (arguments.results / "roofline.txt").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
