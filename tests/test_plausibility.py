"""Doubtful figures of profiles: each kind of mistake is found, and a sound profile raises none."""

from dataclasses import replace

import pytest
from builders import small_profile

from cost_models import Fact
from cost_models.plausibility import (
    RANGES,
    doubtful_figures,
    main_element_type,
    named_facts,
    ridge_point,
)
from spartan_planner.bundled_profiles import load_profile

SOUND = load_profile("raspberry-pi-5")


def with_bandwidth(reference, value=17.068):
    fact = Fact(value, "data_sheet", reference)
    return replace(SOUND, facts=replace(SOUND.facts, bandwidth_gb_per_s=fact))


@pytest.mark.parametrize(
    "reference",
    [
        "Raspberry Pi 5, https://maker.example/sheet.pdf: 4 bytes x 4.267 GT/s = 17.068 GB/s",
        "Raspberry Pi 5 in 'Some data sheet' (2023): = 17.068 GB/s",
        "Raspberry Pi 5, 'Some data sheet', 2023: memory = 17068 MB/s",
        "Raspberry Pi 5, 'Some data sheet', 2023: 2 x 8 GT/s + 1.068 = 17.068 GB/s",
    ],
)
def test_a_sound_reference_raises_no_doubt(reference):
    assert doubtful_figures(with_bandwidth(reference)) == ()


@pytest.mark.parametrize(
    ("reference", "doubt"),
    [
        ("Raspberry Pi 5: = 17.068 GB/s", "neither an https address nor"),
        ("Raspberry Pi 5, http://maker.example: = 17.068 GB/s", "neither an https address nor"),
        ("Raspberry Pi 5 in 'Some data sheet': = 17.068 GB/s", "neither an https address nor"),
        ("https://maker.example: = 17.068 GB/s", "does not name the device"),
        ("Raspberry Pi 50, https://maker.example: = 17.068 GB/s", "does not name the device"),
        ("Raspberry Pi 5, https://maker.example: 17.068 GB/s", "does not state 17.068"),
        ("Raspberry Pi 5, https://maker.example: = 17.068 TB/s", "does not state 17.068"),
        ("Raspberry Pi 5, https://maker.example: = 34.1 GB/s", "does not state 17.068"),
        (
            "Raspberry Pi 5, https://maker.example: 8 bytes x 4.267 GT/s = 17.068 GB/s",
            "8 bytes x 4.267 GT/s is 34.136, not 17.068",
        ),
        (
            "Raspberry Pi 5, https://maker.example: 8 bytes / 0 GT/s = 17.068 GB/s",
            "is nan, not 17.068",
        ),
    ],
)
def test_a_weak_reference_is_named(reference, doubt):
    (found,) = doubtful_figures(with_bandwidth(reference))
    assert found.startswith("bandwidth_gb_per_s: ")
    assert doubt in found


def test_narrower_types_are_not_slower():
    peaks = dict(SOUND.facts.peak_gflop_per_s)
    peaks["float16"], peaks["int8"] = peaks["int8"], peaks["float16"]
    doubts = doubtful_figures(replace(SOUND, facts=replace(SOUND.facts, peak_gflop_per_s=peaks)))
    assert doubts == (
        "the peak of int8 is below that of float16; check both against the data sheet",
    )


def test_measured_figures_need_no_data_sheet_but_a_plausible_size():
    measured = {
        field: Fact(value, "measured", "benchmark")
        for field, value in (("bandwidth_gb_per_s", 9.0), ("launch_overhead_us", 1.0))
    }
    peaks = {"float32": Fact(60.0, "measured", "benchmark")}
    facts = replace(small_profile().facts, peak_gflop_per_s=peaks, **measured)
    facts = replace(facts, energy_pj_per_mac={}, energy_pj_per_byte=None)
    assert doubtful_figures(replace(small_profile(), facts=facts)) == ()
    slipped = replace(facts, bandwidth_gb_per_s=Fact(9000.0, "measured", "benchmark"))
    doubts = doubtful_figures(replace(small_profile(), facts=slipped))
    assert [doubt.split(" of ")[0] for doubt in doubts] == ["bandwidth", "ridge point (float32)"]
    nobody_knows = replace(small_profile(), facts=slipped, category="unknown")
    assert doubtful_figures(nobody_knows) == ()


def test_ridge_point_is_peak_over_bandwidth():
    assert ridge_point(SOUND.facts, "int8") == pytest.approx(614.4 / 17.068)
    assert main_element_type(SOUND.facts) == "float32"
    assert main_element_type(load_profile("qualcomm-snapdragon-888-npu").facts) == "int8"


def test_every_fact_is_looked_at():
    places = [(field, key) for field, key, _ in named_facts(load_profile("nvidia-l4").facts)]
    assert ("peak_gflop_per_s", "int8") in places
    assert ("sparse_speedups", "2:4") in places
    assert ("memory_gb", "") in places
    assert len(places) == len(set(places)) == 4 + 1 + 1 + 3 + 1 + 1 + 1


def test_no_range_of_ridge_points_hides_a_factor_of_a_thousand():
    for category, ranges in RANGES.items():
        low, high = ranges.ridge_point
        assert category == "unknown" or high < 1000 * low
