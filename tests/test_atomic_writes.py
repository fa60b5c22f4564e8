"""Files appear whole or not at all."""

import json
import os
import stat

import pytest

from cost_models import DocumentError
from cost_models.documents import write_atomically, write_json


def fail_half_way(error):
    def write(path):
        path.write_text("half")
        raise error

    return write


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize(
    ("raised", "seen"),
    [(OSError(28, "no space left"), DocumentError), (KeyError("bug"), KeyError)],
)
def test_failing_writer_leaves_everything_as_it_was(tmp_path, before, raised, seen):
    path = tmp_path / "out.txt"
    if before:
        path.write_text(before)
    with pytest.raises(seen):
        write_atomically(path, fail_half_way(raised))
    assert (path.read_text() if path.exists() else None) == before
    assert list(tmp_path.iterdir()) == ([path] if before else [])


def test_error_names_the_file_and_the_reason(tmp_path):
    path = tmp_path / "out.txt"
    with pytest.raises(DocumentError, match=r"out\.txt cannot be written: no space left"):
        write_atomically(path, fail_half_way(OSError(28, "no space left")))


def test_file_is_replaced_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "out.txt"
    for text in ("first", "second"):
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text))
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_mode_is_that_of_any_new_file(tmp_path):
    ordinary, written = tmp_path / "ordinary", tmp_path / "written"
    ordinary.touch()
    write_atomically(written, lambda temporary: temporary.write_text("x"))
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DocumentError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "out.txt", lambda temporary: temporary.touch())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DocumentError, match="cannot be written"):
        write_atomically(tmp_path / "out.txt", lambda temporary: temporary.touch())


def test_target_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DocumentError, match="cannot be written"):
        write_atomically(tmp_path / "out", lambda temporary: temporary.write_text("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_json_is_plain_and_finite(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(DocumentError, match="cannot be written"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
