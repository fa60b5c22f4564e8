"""``profiles``: what its commands print, as tables and as JSON, and how they refuse."""

import json
from dataclasses import replace

import pytest
from builders import small_profile, small_workload

from cost_models import write_document
from cost_models.documents import to_plain
from spartan_planner.bundled_profiles import bundled_profile_names, load_profile
from spartan_planner.cli.app import run
from spartan_planner.profile_report import estimates_table, measurement_table


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path / "p.yaml", small_profile())
    write_document(tmp_path / "w.yaml", small_workload())

    def call_it(*arguments, code=0):
        assert run(["profiles", *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return call_it


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_list_shows_every_bundled_profile(call, arguments):
    text = call(*arguments)
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert set(rows) == set(bundled_profile_names())
    assert "Arm CPU" in rows["raspberry-pi-5"]
    assert "153.6" in rows["raspberry-pi-5"]


@pytest.mark.parametrize("arguments", [("--json",), ("list", "--json"), ("--json", "list")])
def test_list_as_data(call, arguments):
    listed = {item["name"]: item for item in json.loads(call(*arguments))}
    assert tuple(listed) == bundled_profile_names()
    board = listed["raspberry-pi-5"]
    assert board["category"] == "Arm CPU"
    assert board["ridge_point_flop_per_byte"] == pytest.approx(
        board["peak_gflop_per_s"] / board["bandwidth_gb_per_s"]
    )


@pytest.mark.parametrize("name", bundled_profile_names())
def test_every_bundled_profile_can_be_shown(call, name):
    text = " ".join(call("show", name).split())
    assert load_profile(name).name in text
    assert "data sheet" in text
    assert "ridge point" in text
    assert "typical of such devices" in text


@pytest.mark.parametrize("arguments", [("p.yaml",), ("show", "p.yaml")])
def test_a_measured_profile_shows_its_measurement_and_layers(call, arguments):
    text = call(*arguments)
    assert "onnxruntime 1.0" in text
    assert "conv2d 64x64x3x3" in text


@pytest.mark.parametrize(
    "arguments", [("p.yaml", "--json"), ("--json", "p.yaml"), ("show", "--json", "p.yaml")]
)
def test_show_as_data_is_the_document(call, arguments):
    assert json.loads(call(*arguments)) == to_plain(small_profile())


@pytest.mark.parametrize(
    "arguments",
    [("p.yaml", "--workload", "w.yaml"), ("--workload", "w.yaml", "p.yaml")],
)
def test_show_with_a_workload_says_what_pays(call, arguments):
    assert "What pays on made-up for small" in call(*arguments)
    advice = json.loads(call("--json", *arguments))["advice"]
    assert advice["model"] == "small"
    assert {row["layout"] for row in advice["rows"]} == {"tile:32x1@16", "tile:64x1@16"}
    assert advice["sentences"]


def test_validate_lists_what_is_sound_and_notes_what_is_doubtful(call):
    text = call("validate", "raspberry-pi-5", "p.yaml")
    assert text.startswith("raspberry-pi-5: OK\np.yaml: OK\n  note: ")
    first, second = json.loads(call("validate", "--json", "raspberry-pi-5", "p.yaml"))
    assert first == {"file": "raspberry-pi-5", "name": "Raspberry Pi 5", "ok": True, "notes": []}
    assert second["ok"]
    assert any("made up" in note or "address" in note for note in second["notes"])


@pytest.mark.usefixtures("call")
def test_validate_stops_at_the_first_that_is_no_profile(capsys):
    assert run(["profiles", "validate", "p.yaml", "w.yaml", "p.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out.count(": OK") == 1
    assert captured.err.startswith("error: profile w.yaml: at ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lst",), "profile lst does not exist"),
        (("show", "none.yaml"), "profile none.yaml does not exist"),
        (("show",), "Missing argument"),
        (("validate",), "Missing argument"),
        (("show", "p.yaml", "--workload", "p.yaml"), "workload p.yaml: at "),
        (("show", "p.yaml", "--workload", "none.yaml"), "workload none.yaml does not exist"),
        (("list", "extra"), "unexpected extra argument"),
    ],
)
def test_mistakes_are_named(call, arguments, message):
    assert message in call(*arguments, code=2)


def test_the_error_on_shapes_left_out_is_shown():
    profile = small_profile()
    fitted = replace(profile.roofline, median_error=0.123, is_calibrated=True)
    told = str(estimates_table(replace(profile, roofline=fitted)).title)
    assert told.endswith("0.5 to 2 times; median error 12.3% on shapes left out of the fit")
    assert "median error" not in str(estimates_table(profile).title)


def test_fits_without_a_free_point_have_no_error_to_show():
    profile = small_profile()
    provenance = replace(profile.measurement.provenance, median_fit_error=None, max_fit_error=None)
    measurement = replace(profile.measurement, provenance=provenance)
    told = measurement_table(replace(profile, measurement=measurement))
    assert any("no fit has more points" in str(cell) for cell in told.columns[1].cells)
