import numpy as np
import pytest
import torch

from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.training import load_data


def test_digits_are_real_and_always_split_alike():
    data = load_data("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    image, label = data.train[0]
    assert image.shape == (1, 8, 8)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert int(label) == 0


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (np.zeros((10, 8, 8), np.float32), (1, 8, 8)),
        (np.full((10, 3, 8, 8), 2, np.float64), (3, 8, 8)),
        (np.full((10, 6, 5, 3), 255, np.uint8), (3, 6, 5)),
        (np.zeros((10, 6, 5), np.uint8), (1, 6, 5)),
    ],
)
def test_images_from_a_file(tmp_path, images, shape):
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(10) % 3)
    data = load_data(str(tmp_path / "data.npz"))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.train[0][0].shape == shape
    assert data.train[0][0].dtype == torch.float32
    if images.dtype == np.uint8 and images.max():
        assert float(data.train[0][0].max()) == 1


def test_a_file_may_bring_its_own_test_set(tmp_path):
    images, labels = np.zeros((6, 1, 2, 2), np.float32), np.zeros(6, np.int32)
    np.savez(
        tmp_path / "d.npz",
        images=images,
        labels=labels,
        test_images=images[:3],
        test_labels=labels[:3],
    )
    data = load_data(str(tmp_path / "d.npz"))
    assert (len(data.train), len(data.test)) == (6, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 2, 2))}, "no array 'labels'"),
        ({"labels": np.zeros(4)}, "no array 'images'"),
        ({"images": np.zeros((4, 2, 2)), "labels": np.zeros(3, int)}, "equally many"),
    ],
)
def test_files_that_lack_something(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(TrainingError, match=message):
        load_data(str(tmp_path / "d.npz"))


@pytest.mark.parametrize("name", ["missing.npz", "mnist", "no_module:data"])
def test_names_that_stand_for_nothing(name):
    with pytest.raises(UsageError, match=name.split(":")[0].split(".")[0]):
        load_data(name)


def test_a_factory_must_return_a_pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd_data.py").write_text("def one():\n    return [1]\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="pair of datasets"):
        load_data("odd_data:one")
