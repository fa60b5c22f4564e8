"""Figures of a device profile that deserve doubt: copied, slipped by a unit, or without a source.

A profile can fit its schema and still be wrong.  What is checked here, for every profile:

- peak, bandwidth and ridge point lie in the range of the device's category;
- narrower element types are not slower than wider ones;

and for every figure that names a data sheet:

- the reference holds an address, or a title and a year;
- it states the figure itself, ``= 153.6 GFLOP/s``, and what stands before the equals sign, such as
  ``4 cores x 2.4 GHz x 16 lanes``, comes to it;
- figures of the device, other than energies and overheads, name the device as the profile does.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cost_models.device_facts import DeviceFacts, Fact
from cost_models.device_profile import DeviceProfile

_Range = tuple[float, float]
_ANY: _Range = (0.0, float("inf"))


@dataclass(frozen=True)
class PlausibleRanges:
    """Least and greatest figures to expect of a category.

    Attributes:
        float32_gflop_per_s, int8_gflop_per_s: peak rates.
        bandwidth_gb_per_s: memory bandwidth.
        ridge_point: operations per byte at the peak of :func:`main_element_type`.
    """

    float32_gflop_per_s: _Range
    int8_gflop_per_s: _Range
    bandwidth_gb_per_s: _Range
    ridge_point: _Range


RANGES: dict[str, PlausibleRanges] = {
    "data-centre GPU": PlausibleRanges((5e3, 2e5), (2e4, 5e6), (250, 1e4), (8, 150)),
    "desktop GPU": PlausibleRanges((2e3, 1.5e5), (1e4, 4e6), (150, 2e3), (8, 120)),
    "embedded GPU": PlausibleRanges((200, 1e4), (1e3, 5e5), (20, 350), (5, 80)),
    "x86 CPU": PlausibleRanges((10, 2e4), (40, 5e5), (2, 1200), (1, 80)),
    "Arm CPU": PlausibleRanges((2, 1e4), (4, 1e5), (1, 1e3), (1, 40)),
    "phone NPU": PlausibleRanges((100, 5e4), (1e3, 2e5), (10, 150), (100, 1500)),
    "microcontroller": PlausibleRanges((0.005, 20), (0.005, 200), (0.003, 5), (0.05, 30)),
    "unknown": PlausibleRanges(_ANY, _ANY, _ANY, _ANY),
}
"""No range of ridge points spans a factor of 1000: a figure in MB/s or TFLOP/s falls outside."""

_NARROWER = (("float32", "float16"), ("float32", "bfloat16"), ("float16", "int8"))
_ROUNDING = 5e-3
"""Relative: data sheets print two to four digits."""

_RATE = {"GFLOP/s": 1.0, "TFLOP/s": 1e3, "GOP/s": 1.0, "TOP/s": 1e3}
_UNITS: dict[str, dict[str, float]] = {
    "peak_gflop_per_s": _RATE,
    "bandwidth_gb_per_s": {"GB/s": 1.0, "TB/s": 1e3, "MB/s": 1e-3},
    "launch_overhead_us": {"us": 1.0},
    "energy_pj_per_mac": {"pJ": 1.0},
    "energy_pj_per_byte": {"pJ": 1.0},
    "memory_gb": {"GB": 1.0, "MB": 1e-3},
    "sparse_speedups": {"times dense": 1.0},
}
_NAMES_DEVICE = ("peak_gflop_per_s", "bandwidth_gb_per_s", "memory_gb", "sparse_speedups")

_ADDRESS = re.compile(r"https://[\w.-]+\.\w+(/\S*)?")
_TITLE = re.compile(r"'[^']{8,}'")
_YEAR = re.compile(r"\b(19|20)\d\d\b")
_NUMBER = re.compile(r"\d+(\.\d+)?")


def main_element_type(facts: DeviceFacts) -> str:
    """Return ``float32`` where its peak is known, else the type of the lowest peak."""
    peaks = facts.peak_gflop_per_s
    return "float32" if "float32" in peaks else min(peaks, key=lambda name: peaks[name].value)


def ridge_point(facts: DeviceFacts, element_type: str) -> float:
    """Return peak over bandwidth: operations per byte above which arithmetic is the bound."""
    return facts.peak_gflop_per_s[element_type].value / facts.bandwidth_gb_per_s.value


def named_facts(facts: DeviceFacts) -> Iterator[tuple[str, str, Fact]]:
    """Yield the field, the key in it (empty where it has none) and the fact, for every fact."""
    for field in _UNITS:
        held = getattr(facts, field)
        if isinstance(held, Fact):
            yield field, "", held
        elif held is not None:
            yield from ((field, key, fact) for key, fact in held.items())


def doubtful_figures(profile: DeviceProfile) -> tuple[str, ...]:
    """Return one sentence per doubt about a profile's figures; empty where there is none."""
    doubts = [*_out_of_range(profile), *_out_of_order(profile.facts)]
    for field, key, fact in named_facts(profile.facts):
        if fact.source == "data_sheet":
            place = f"{field}.{key}" if key else field
            doubts += [f"{place}: {doubt}" for doubt in _badly_sourced(profile.name, field, fact)]
    return tuple(doubts)


def _out_of_range(profile: DeviceProfile) -> Iterator[str]:
    facts, ranges = profile.facts, RANGES[profile.category]
    main = main_element_type(facts)
    checks = [
        ("bandwidth", facts.bandwidth_gb_per_s.value, "GB/s", ranges.bandwidth_gb_per_s),
        (f"ridge point ({main})", ridge_point(facts, main), "FLOP/B", ranges.ridge_point),
    ]
    for name, allowed in (
        ("float32", ranges.float32_gflop_per_s),
        ("int8", ranges.int8_gflop_per_s),
    ):
        if name in facts.peak_gflop_per_s:
            checks.append((f"{name} peak", facts.peak_gflop_per_s[name].value, "GFLOP/s", allowed))
    for what, found, unit, (low, high) in checks:
        if not low <= found <= high:
            yield (
                f"{what} of {found:.4g} {unit} is unusual for category {profile.category!r}, where "
                f"{low:g} to {high:g} is expected; check unit and device"
            )


def _out_of_order(facts: DeviceFacts) -> Iterator[str]:
    peaks = facts.peak_gflop_per_s
    for wide, narrow in _NARROWER:
        if wide in peaks and narrow in peaks and peaks[narrow].value < peaks[wide].value:
            yield f"the peak of {narrow} is below that of {wide}; check both against the data sheet"


def _badly_sourced(device: str, field: str, fact: Fact) -> Iterator[str]:
    text = fact.reference
    if not _ADDRESS.search(text) and not (_TITLE.search(text) and _YEAR.search(text)):
        yield "the reference names neither an https address nor a 'title' and a year"
    if field in _NAMES_DEVICE and not re.search(rf"(?<!\w){re.escape(device)}(?!\w)", text):
        yield f"the reference does not name the device {device!r}; is the figure another's?"
    stated = _stated_figures(text, _UNITS[field])
    if not any(math.isclose(figure, fact.value) for _, figure, _ in stated):
        units = " or ".join(_UNITS[field])
        yield f"the reference does not state {fact.value:g} (write '... = FIGURE {units}')"
    for expression, _, printed in stated:
        result = _product(expression)
        if result is not None and not _close(result, printed):
            yield f"{expression.strip()} is {result:g}, not {printed:g}"


def _stated_figures(text: str, units: dict[str, float]) -> list[tuple[str, float, float]]:
    """Each ``EXPRESSION = FIGURE UNIT``: expression, figure in the field's unit, as printed."""
    pattern = rf"([^=]*)= ({_NUMBER.pattern}) ({'|'.join(map(re.escape, units))})(?![\w/])"
    return [
        (re.split(r"[:;,] ", match[1])[-1], float(match[2]) * units[match[4]], float(match[2]))
        for match in re.finditer(pattern, text)
    ]


def _product(expression: str) -> float | None:
    """Value of ``4 cores x 2.4 GHz / 8 + 2 x 3``; ``None`` where it is no such expression."""
    if not re.search(r" [x/+] ", expression):
        return None
    total = 0.0
    for term in expression.split(" + "):
        value, operator = 1.0, "x"
        for part in re.split(r" ([x/]) ", term.strip()):
            number = _NUMBER.match(part)
            if part in ("x", "/"):
                operator = part
            elif number is None:
                return None
            else:
                figure = float(number[0])
                value = value * figure if operator == "x" else value / (figure or float("nan"))
        total += value
    return total


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _ROUNDING * abs(b)
