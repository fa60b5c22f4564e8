"""Tables of device profiles that people read; needs no torch."""

from collections.abc import Mapping

from rich.table import Table

from cost_models import DeviceProfile, Fact, Provenance
from cost_models.plausibility import main_element_type, named_facts, ridge_point

_UNITS = {
    "peak_gflop_per_s": "GFLOP/s",
    "bandwidth_gb_per_s": "GB/s",
    "launch_overhead_us": "us",
    "energy_pj_per_mac": "pJ/MAC",
    "energy_pj_per_byte": "pJ/B",
    "memory_gb": "GB",
    "sparse_speedups": "x dense",
}
_LABELS = {
    "peak_gflop_per_s": "peak",
    "bandwidth_gb_per_s": "bandwidth",
    "launch_overhead_us": "launch overhead",
    "energy_pj_per_mac": "energy",
    "energy_pj_per_byte": "energy of memory",
    "memory_gb": "memory",
    "sparse_speedups": "speed-up",
}


def profiles_table(profiles: Mapping[str, DeviceProfile]) -> Table:
    """One row per profile: name, category, peak, bandwidth and ridge point."""
    table = Table(title="Device profiles: peak rate, bandwidth and their ratio, the ridge point")
    table.add_column("profile", no_wrap=True)
    table.add_column("category", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for heading in ("peak GFLOP/s", "GB/s", "FLOP/B"):
        table.add_column(heading, justify="right")
    table.add_column("timings")
    for name, profile in profiles.items():
        facts, element_type = profile.facts, main_element_type(profile.facts)
        table.add_row(
            name,
            profile.category,
            element_type,
            _figure(facts.peak_gflop_per_s[element_type].value),
            _figure(facts.bandwidth_gb_per_s.value),
            _figure(ridge_point(facts, element_type)),
            f"{len(profile.layers)} shapes" if profile.layers else "estimated",
        )
    return table


def profile_summary(name: str, profile: DeviceProfile) -> dict[str, object]:
    """Return what :func:`profiles_table` shows of one profile, as plain data."""
    facts, element_type = profile.facts, main_element_type(profile.facts)
    return {
        "name": name,
        "device": profile.name,
        "category": profile.category,
        "element_type": element_type,
        "peak_gflop_per_s": facts.peak_gflop_per_s[element_type].value,
        "bandwidth_gb_per_s": facts.bandwidth_gb_per_s.value,
        "ridge_point_flop_per_byte": ridge_point(facts, element_type),
        "num_measured_shapes": len(profile.layers),
    }


def facts_table(profile: DeviceProfile) -> Table:
    """One row per fact: figure, source and reference; then the ridge points."""
    table = Table(title=f"{profile.name} ({profile.category})")
    table.add_column("fact", no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True)
    table.add_column("reference", overflow="fold")
    for field, key, fact in named_facts(profile.facts):
        label = f"{_LABELS[field]} {key}".strip()
        table.add_row(label, f"{_figure(fact.value)} {_UNITS[field]}", *_source(fact))
    for element_type in profile.facts.peak_gflop_per_s:
        ridge = _figure(ridge_point(profile.facts, element_type))
        table.add_row(
            f"ridge point {element_type}", f"{ridge} FLOP/B", "derived", "peak / bandwidth"
        )
    return table


def estimates_table(profile: DeviceProfile) -> Table:
    """One row per class of layer: the efficiencies behind estimated times."""
    roofline = profile.roofline
    low, high = roofline.error_band
    kind = "fitted to this device" if roofline.is_calibrated else "typical of such devices"
    error = roofline.median_error
    told = "" if error is None else f"; median error {error:.1%} on shapes left out of the fit"
    table = Table(title=f"Estimates ({kind}), {low:g} to {high:g} times{told}")
    table.add_column("layer class", no_wrap=True)
    for heading in ("share of peak", "share of bandwidth", "overhead ms"):
        table.add_column(heading, justify="right")
    for item in roofline.classes:
        table.add_row(
            item.layer_class,
            f"{item.compute_efficiency:.0%}",
            f"{item.bandwidth_efficiency:.0%}",
            _figure(item.overhead_ms),
        )
    return table


def measurement_table(profile: DeviceProfile) -> Table | None:
    """One row per circumstance of the timings; ``None`` where nothing was measured."""
    measurement = profile.measurement
    if measurement is None:
        return None
    device, runtime, provenance = measurement.device, measurement.runtime, measurement.provenance
    table = Table(title="Measurement")
    table.add_column("circumstance", no_wrap=True)
    table.add_column("value", overflow="fold")
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    for row in (
        ("processor", f"{device.cpu} ({device.architecture}, {device.num_cores} cores)"),
        ("runtime", f"{runtime.name} {runtime.version}, {runtime.provider}"),
        ("threads", str(device.num_threads)),
        ("governor, load", f"{device.governor}, {device.load_average:g}"),
        ("date", provenance.date),
        ("versions", versions),
        ("rounds", f"{provenance.num_rounds} in {provenance.duration_s:g} s"),
        ("fit error", _fit_error(provenance)),
        ("run overhead", f"{profile.run_overhead_ms:g} ms"),
    ):
        table.add_row(*row)
    return table


def _fit_error(provenance: Provenance) -> str:
    median, greatest = provenance.median_fit_error, provenance.max_fit_error
    if median is None or greatest is None:
        return "not known: no fit has more points than a line needs"
    return f"median {median:.1%}, largest {greatest:.1%}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _source(fact: Fact) -> tuple[str, str]:
    return fact.source.replace("_", " "), fact.reference
