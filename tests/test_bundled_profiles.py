"""Profiles by name, and by path."""

import pytest
from builders import small_profile

from cost_models import DocumentError, write_document
from spartan_planner.bundled_profiles import bundled_profile_names, load_profile, profiles_folder


def test_every_bundled_profile_can_be_read():
    for name in bundled_profile_names():
        assert load_profile(name).provenance.source == "measured"


def test_folder_explains_itself():
    assert (profiles_folder() / "README.md").is_file()


@pytest.mark.parametrize("as_path", [True, False])
def test_profile_is_read_by_path(tmp_path, as_path):
    path = tmp_path / "mine.yaml"
    write_document(path, small_profile())
    assert load_profile(path if as_path else str(path)) == small_profile()


@pytest.mark.parametrize("name", ["no-such-device", "../README", ""])
def test_unknown_profile_is_refused(name):
    with pytest.raises(DocumentError, match=r"^profile "):
        load_profile(name)
