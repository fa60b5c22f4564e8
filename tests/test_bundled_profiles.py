"""The bundled profiles: found, complete, sourced, plausible, and none copied from another."""

from dataclasses import replace
from itertools import permutations

import pytest
from builders import small_profile

from cost_models import DocumentError, write_document
from cost_models.plausibility import doubtful_figures, main_element_type
from spartan_planner.bundled_profiles import bundled_profile_names, load_profile, profiles_folder

NAMES = bundled_profile_names()
PROFILES = {name: load_profile(name) for name in NAMES}
PAIRS = list(permutations(NAMES, 2))
CATEGORIES = {
    "data-centre GPU",
    "desktop GPU",
    "embedded GPU",
    "x86 CPU",
    "Arm CPU",
    "phone NPU",
    "microcontroller",
}


def with_facts(profile, **changes):
    return replace(profile, facts=replace(profile.facts, **changes))


def with_peak(profile, fact):
    peaks = {**profile.facts.peak_gflop_per_s, main_element_type(profile.facts): fact}
    return with_facts(profile, peak_gflop_per_s=peaks)


def main_peak(profile):
    return profile.facts.peak_gflop_per_s[main_element_type(profile.facts)]


def test_there_is_a_device_of_every_kind():
    assert len(NAMES) >= 14
    assert {profile.category for profile in PROFILES.values()} >= CATEGORIES


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_profile_is_sourced_and_plausible(name):
    assert doubtful_figures(PROFILES[name]) == ()


@pytest.mark.parametrize("name", NAMES)
def test_estimates_of_what_was_not_measured_say_so(name):
    profile = PROFILES[name]
    if profile.measurement is None:
        low, high = profile.roofline.error_band
        assert not profile.roofline.is_calibrated
        assert profile.roofline.median_error is None
        assert low <= 0.5
        assert high >= 4
        assert "any" in {item.layer_class for item in profile.roofline.classes}


def test_no_two_devices_have_the_same_name_or_the_same_peak_and_bandwidth():
    assert len({profile.name for profile in PROFILES.values()}) == len(NAMES)
    bounds = {
        (main_peak(profile).value, profile.facts.bandwidth_gb_per_s.value)
        for profile in PROFILES.values()
    }
    assert len(bounds) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1000.0, 1e-3])
def test_a_slip_of_units_is_found_by_the_size_alone(name, factor):
    profile = PROFILES[name]

    def measured(fact):
        return replace(fact, value=fact.value * factor, source="measured")

    bandwidth = with_facts(profile, bandwidth_gb_per_s=measured(profile.facts.bandwidth_gb_per_s))
    for slipped in (bandwidth, with_peak(profile, measured(main_peak(profile)))):
        assert any("ridge point" in doubt for doubt in doubtful_figures(slipped))


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_a_figure_pasted_from_another_device_is_found(name, other):
    """With its reference or without it."""
    profile, source = PROFILES[name], PROFILES[other]
    theirs, ours = source.facts.bandwidth_gb_per_s, profile.facts.bandwidth_gb_per_s
    assert doubtful_figures(with_facts(profile, bandwidth_gb_per_s=theirs))
    assert doubtful_figures(with_peak(profile, main_peak(source)))
    if theirs.value != ours.value:
        pasted = replace(ours, value=theirs.value)
        assert doubtful_figures(with_facts(profile, bandwidth_gb_per_s=pasted))
    if main_peak(source).value != main_peak(profile).value:
        pasted = replace(main_peak(profile), value=main_peak(source).value)
        assert doubtful_figures(with_peak(profile, pasted))


@pytest.mark.parametrize("name", NAMES)
def test_peak_and_bandwidth_taken_for_each_other_are_found(name):
    profile = PROFILES[name]
    peak, bandwidth = main_peak(profile), profile.facts.bandwidth_gb_per_s
    swapped = with_peak(with_facts(profile, bandwidth_gb_per_s=peak), bandwidth)
    assert doubtful_figures(swapped)


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_under_the_wrong_category_of_another_order_is_found(name):
    profile = PROFILES[name]
    wrong = "microcontroller" if profile.category != "microcontroller" else "data-centre GPU"
    assert doubtful_figures(replace(profile, category=wrong))


def test_folder_explains_itself():
    readme = (profiles_folder() / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in NAMES)


@pytest.mark.parametrize("as_path", [True, False])
def test_profile_is_read_by_path(tmp_path, as_path):
    path = tmp_path / "mine.yaml"
    write_document(path, small_profile())
    assert load_profile(path if as_path else str(path)) == small_profile()


@pytest.mark.parametrize("name", ["no-such-device", "../README", ""])
def test_unknown_profile_is_refused(name):
    with pytest.raises(DocumentError, match=r"^profile "):
        load_profile(name)
