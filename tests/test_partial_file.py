"""Rounds on disk: what was appended is read, what does not belong or is damaged is refused."""

import json
from dataclasses import replace

import pytest
from builders import conv_shape, linear_shape, small_workload, workload_of

from cost_models import LayerWorkload
from spartan_planner.errors import ProfileError
from spartan_planner.profiling.device import this_device
from spartan_planner.profiling.measurement_plan import NUM_WHOLE_FIGURES, Batch, plan_measurements
from spartan_planner.profiling.partial_file import PartialFile, belonging, num_kept_rounds
from spartan_planner.profiling.rounds import Round
from spartan_planner.profiling.settings import ProfileSettings
from spartan_planner.runtimes import LAYER_CLASSES, load_runtime

WORKLOAD = workload_of(
    LayerWorkload("a", conv_shape(32, 32, 1), 64), LayerWorkload("b", linear_shape(), 1)
)
BATCHES = plan_measurements(WORKLOAD, has_model=True)
OWNER = belonging(WORKLOAD, ProfileSettings(), load_runtime(), this_device(1))


def round_of(yardstick_ms: float, batches=BATCHES, number: int = 0) -> Round:
    times = tuple(0.1 * (i + 1) for i in range(batches[number].num_figures))
    return Round(number, yardstick_ms, times, 0.5)


def test_rounds_are_read_as_they_were_appended(tmp_path):
    file = PartialFile(tmp_path / "p", OWNER)
    assert file.read(BATCHES) == []
    assert num_kept_rounds(tmp_path / "p") == 0
    file.append([round_of(1.0), round_of(1 / 3)])
    assert num_kept_rounds(tmp_path / "p") == 2
    file.append([round_of(2.0)])
    assert PartialFile(tmp_path / "p", OWNER).read(BATCHES) == [
        round_of(1.0),
        round_of(1 / 3),
        round_of(2.0),
    ]


@pytest.mark.parametrize("num_lost", [1, 5, 60])
def test_a_line_cut_off_by_a_crash_is_left_out_and_written_over(tmp_path, num_lost):
    path = tmp_path / "p"
    PartialFile(path, OWNER).append([round_of(1.0), round_of(2.0)])
    path.write_bytes(path.read_bytes()[:-num_lost])
    file = PartialFile(path, OWNER)
    assert file.read(BATCHES) == [round_of(1.0)]
    file.append([round_of(3.0)])
    assert file.read(BATCHES) == [round_of(1.0), round_of(3.0)]


def test_a_file_cut_off_in_its_first_line_begins_anew(tmp_path):
    path = tmp_path / "p"
    path.write_text('{"format": "spar')
    file = PartialFile(path, OWNER)
    assert file.read(BATCHES) == []
    file.append([round_of(1.0)])
    assert file.read(BATCHES) == [round_of(1.0)]


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (
            belonging(small_workload(), ProfileSettings(), load_runtime(), this_device(1)),
            r"of another workload \(of model 'small'\); delete it, or write this profile elsewhere",
        ),
        (
            belonging(WORKLOAD, ProfileSettings(num_threads=2), load_runtime(), this_device(2)),
            r"other settings \(num_threads 1, now 2\); delete it to begin anew",
        ),
        (replace(OWNER, runtime={**OWNER.runtime, "name": "openvino"}), "other runtime"),
        (replace(OWNER, versions={**OWNER.versions, "numpy": "1"}), r"versions \(numpy .*, now 1"),
        (replace(OWNER, machine={**OWNER.machine, "cpu": "abacus"}), r"machine \(cpu .*, now abac"),
    ],
)
def test_rounds_of_something_else_are_refused(tmp_path, owner, message):
    PartialFile(tmp_path / "p", OWNER).append([round_of(1.0)])
    with pytest.raises(ProfileError, match=message):
        PartialFile(tmp_path / "p", owner).read(BATCHES)


def test_settings_that_change_no_figure_do_not_matter():
    longer = ProfileSettings(name="other", num_rounds=999, max_duration_s=1.0, max_half_width=0.5)
    assert belonging(WORKLOAD, longer, load_runtime(), this_device(1)) == OWNER


DAMAGES = {
    "no JSON": b"nonsense\n",
    "no object": b"[1, 2]\n",
    "not text": b"\xff\xfe\n",
    "a key is missing": b'{"batch": 0}\n',
    "another batch": json.dumps({**vars(round_of(1.0)), "batch": 7}).encode() + b"\n",
    "a figure is missing": json.dumps({**vars(round_of(1.0)), "times_ms": [1.0]}).encode() + b"\n",
    "not a figure": json.dumps({**vars(round_of(1.0)), "yardstick_ms": "x"}).encode() + b"\n",
    "no yardstick": json.dumps({**vars(round_of(1.0)), "yardstick_ms": 0}).encode() + b"\n",
    "infinite": json.dumps({**vars(round_of(1.0)), "duration_s": float("inf")}).encode() + b"\n",
    "negative": json.dumps({**vars(round_of(1.0)), "duration_s": -1}).encode() + b"\n",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused(tmp_path, name):
    path = tmp_path / "p"
    PartialFile(path, OWNER).append([round_of(1.0)])
    path.write_bytes(path.read_bytes() + DAMAGES[name])
    with pytest.raises(ProfileError, match="is damaged or of another version"):
        PartialFile(path, OWNER).read(BATCHES)


@pytest.mark.parametrize("content", [b"{}\n", b'{"format": "other"}\n', b"nonsense\n"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(ProfileError, match="is damaged or of another version"):
        PartialFile(tmp_path / "p", OWNER).read(BATCHES)


def test_places_that_cannot_be_used_are_refused(tmp_path):
    folder = PartialFile(tmp_path, OWNER)
    with pytest.raises(ProfileError, match="cannot be read"):
        folder.read(BATCHES)
    with pytest.raises(ProfileError, match="cannot be written"):
        folder.append([round_of(1.0)])


def test_batches_know_how_many_figures_they_have():
    (batch,) = BATCHES
    assert batch.has_model
    # Two dense shapes, one lowered with a single or both of its blocks, the model, its classes,
    # and the model lowered.
    assert len(batch.forms) == 4
    assert batch.num_figures == 4 + NUM_WHOLE_FIGURES == 4 + 1 + len(LAYER_CLASSES) + 1
    assert Batch(batch.networks).num_figures == 4
