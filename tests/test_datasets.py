"""Data by name, against arrays and images made here."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.training import load_data
from spartan_planner.training.data.preprocessing import Preprocessing
from spartan_planner.training.data.text import VOCABULARY_SIZE

ROUNDING = 1e-6
"""Of float32 pixels in [0, 1] that are normalised."""
COLOURS = {"ash": (10, 20, 30), "birch": (200, 100, 50)}


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
        (np.full((10, 3, 6, 5), 255, np.uint8), (3, 6, 5)),
        (np.full((10, 6, 5, 1), 0.5, np.float32), (1, 6, 5)),
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


def numbered(count: int, start: int = 0) -> dict[str, np.ndarray]:
    """Images that each hold their own number."""
    numbers = np.arange(start, start + count, dtype=np.uint8)
    return {"images": numbers[:, None, None] + np.zeros((1, 2, 2), np.uint8), "labels": numbers}


def all_labels(examples) -> list[int]:
    return [int(examples[index][1]) for index in range(len(examples))]


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


@pytest.mark.parametrize("is_folder", [True, False])
def test_several_files_and_a_folder_of_them(tmp_path, is_folder):
    for name, held in (
        ("train_0", numbered(4)),
        ("train_1", numbered(3, 4)),
        ("test", numbered(2, 50)),
    ):
        np.savez(tmp_path / f"{name}.npz", **held)
    files = [str(tmp_path / f"{name}.npz") for name in ("train_0", "train_1", "test")]
    data = load_data(str(tmp_path) if is_folder else ",".join(files))
    assert all_labels(data.train) == list(range(7))
    assert all_labels(data.test) == [50, 51]
    image, label = data.train[5]
    assert torch.equal(image, torch.full((1, 2, 2), int(label) / 255))


def test_what_is_held_out_is_not_trained_on(tmp_path):
    np.savez(tmp_path / "d.npz", **numbered(20))
    data = load_data(str(tmp_path / "d.npz"))
    assert sorted(all_labels(data.train) + all_labels(data.test)) == list(range(20))


def test_pixels_are_normalised(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(6))
    wish = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    plain, normalised = (load_data(str(tmp_path / "d.npz"), item) for item in (None, wish))
    for index in range(4):
        pixels = plain.train[index][0]
        mean, std = torch.tensor([[0.1, 0.2, 0.3], [0.5, 1.0, 2.0]]).view(2, 3, 1, 1)
        expected = (pixels - mean) / std
        assert torch.allclose(normalised.train[index][0], expected, atol=ROUNDING)


def test_training_images_are_moved_and_mirrored_but_test_images_are_not(tmp_path):
    images = np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8).repeat(10, axis=0)
    np.savez(tmp_path / "d.npz", images=images, labels=np.zeros(10, int))
    data = load_data(str(tmp_path / "d.npz"), Preprocessing(size=8, crop="padded", flip=True))
    torch.manual_seed(0)
    seen = [(data.train[0][0] * 255).round().int()[0] for _ in range(60)]
    assert len({tuple(image.flatten().tolist()) for image in seen}) > 5
    for _ in range(3):
        assert ((data.test[0][0] * 255).round().numpy() == images[0]).all()
    # One pixel of padding: the middle is always there, whole, mirrored or not.
    middle = set(images[0, 1:-1, 1:-1].flatten().tolist())
    assert all(middle <= set(image.flatten().tolist()) for image in seen)


def test_augmentation_is_repeated_by_the_seed(tmp_path):
    np.savez(tmp_path / "d.npz", **numbered(10))
    data = load_data(str(tmp_path / "d.npz"), Preprocessing(size=2, crop="padded", flip=True))

    def epoch() -> torch.Tensor:
        torch.manual_seed(3)
        return torch.cat([images for images, _ in DataLoader(data.train, 4)])

    assert torch.equal(epoch(), epoch())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 2, 2))}, "no array 'labels'"),
        ({"labels": np.zeros(4)}, "no array 'images'"),
        ({"images": np.zeros((4, 2, 2)), "labels": np.zeros(3, int)}, "equally many"),
        ({"images": np.zeros((4, 2)), "labels": np.zeros(4, int)}, r"\[N, H, W\]"),
        ({"images": np.zeros((4, 2, 2)), "labels": np.zeros(4)}, "whole number"),
        ({"images": np.full((4, 2, 2), "x"), "labels": np.zeros(4, int)}, "numbers are needed"),
        (
            {
                "images": np.zeros((4, 2, 2)),
                "labels": np.zeros(4, int),
                "test_images": np.zeros((4, 2, 2)),
            },
            "no array 'test_labels'",
        ),
    ],
)
def test_files_that_lack_something(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(TrainingError, match=message):
        load_data(str(tmp_path / "d.npz"))


def test_files_that_do_not_fit_together(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 2, 2)), labels=np.zeros(4, int))
    np.savez(tmp_path / "b.npz", images=np.zeros((4, 3, 3)), labels=np.zeros(4, int))
    with pytest.raises(TrainingError, match="different shapes"):
        load_data(str(tmp_path))


def test_a_test_set_alone_cannot_train(tmp_path):
    np.savez(tmp_path / "test.npz", **numbered(4))
    with pytest.raises(TrainingError, match="is a test set"):
        load_data(str(tmp_path / "test.npz"))


@pytest.mark.parametrize(
    "name",
    [
        "missing.npz",
        "mnist",
        "no_module:data",
        "missing.txt",
        "imagefolder:missing",
        "torchvision:NoSuchSet",
        "torchvision:FakeData",
        "torchvision:CIFAR10?root=missing",
        "torchvision:SVHN?root=missing",
        "hf:./missing",
        "digits?shuffle=yes",
        "text:missing?length=3",
        "torchvision:MNIST?download=perhaps",
    ],
)
def test_names_that_stand_for_nothing(name):
    with pytest.raises(UsageError) as caught:
        load_data(name)
    text = str(caught.value)
    assert name.partition(":")[2].split("?")[0] in text or "download" in text
    assert "\n" not in text


def test_a_folder_without_arrays_says_what_else_it_may_be(tmp_path):
    with pytest.raises(UsageError, match="imagefolder:"):
        load_data(str(tmp_path))


def test_a_factory_must_return_a_pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd_data.py").write_text("def one():\n    return [1]\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="pair of datasets"):
        load_data("odd_data:one")


@pytest.mark.parametrize("name", ["digits", "torch:nothing"])
def test_data_that_are_ready_take_no_preprocessing(name):
    with pytest.raises(UsageError, match="take no preprocessing"):
        load_data(name, Preprocessing(flip=True))


def draw_images(folder, sizes=((40, 30), (30, 50)), mode="RGB"):
    """One image of each size in a folder of each class, all of the class's colour."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            image = Image.new("RGB", size, colour)
            image.convert(mode).save(folder / name / f"{number}.png")


def test_a_folder_of_images_of_any_size(tmp_path):
    draw_images(tmp_path / "train")
    draw_images(tmp_path / "val")
    wish = Preprocessing(size=16, crop="resized", flip=True)
    data = load_data(f"imagefolder:{tmp_path}", wish)
    assert (len(data.train), len(data.test)) == (4, 4)
    for examples in (data.train, data.test):
        for index in range(4):
            image, label = examples[index]
            assert image.shape == (3, 16, 16)
            colour = torch.tensor(list(COLOURS.values())[int(label)]).view(3, 1, 1) / 255
            assert torch.allclose(image, colour.expand(3, 16, 16), atol=1 / 255)


def test_a_folder_of_images_is_never_held_in_memory(tmp_path):
    draw_images(tmp_path)
    data = load_data(f"imagefolder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (3, 1)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        _ = data.test[0]


def test_grey_images_become_what_the_normalisation_says(tmp_path):
    draw_images(tmp_path, mode="L")
    wish = Preprocessing(size=8, mean=(0.5,), std=(1.0,))
    assert load_data(f"imagefolder:{tmp_path}", wish).train[0][0].shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("parts", "message"),
    [(("train",), "named val or test"), (("train", "val"), "in only one of")],
)
def test_folders_of_images_that_lack_something(tmp_path, parts, message):
    for part in parts:
        draw_images(tmp_path / part)
    if len(parts) > 1:
        (tmp_path / "val" / "ash").rename(tmp_path / "val" / "yew")
    with pytest.raises((UsageError, TrainingError), match=message):
        load_data(f"imagefolder:{tmp_path}")


def test_a_folder_without_images(tmp_path):
    (tmp_path / "ash").mkdir()
    with pytest.raises(UsageError, match="no images"):
        load_data(f"imagefolder:{tmp_path}")


def write_cifar10(root):
    """A tiny CIFAR-10 in the layout of its archive, whose sums torchvision would check."""
    import pickle

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = {
            "data": generator.integers(0, 256, (2, 3072), dtype=np.uint8),
            "labels": [0, 1],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))


def test_data_sets_of_torchvision(tmp_path, monkeypatch):
    from spartan_planner.model_names import import_models

    write_cifar10(tmp_path)
    datasets = import_models("torchvision.datasets")
    # The files are ours, so their sums are not the archive's.
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    data = load_data(f"torchvision:CIFAR10?root={tmp_path}", Preprocessing(size=32, crop="padded"))
    assert (len(data.train), len(data.test)) == (10, 2)
    assert data.train[3][0].shape == (3, 32, 32)
    assert [int(data.test[index][1]) for index in range(2)] == [0, 1]


def hugging_face_rows(count: int, sizes=((6, 5),)):
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    rows = [
        {
            "text": "unused",
            "picture": Image.new("L", sizes[number % len(sizes)], number),
            "kind": number % 2,
        }
        for number in range(count)
    ]
    return datasets.Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("has_test_part", [True, False])
def test_a_saved_hugging_face_data_set(tmp_path, has_test_part):
    import datasets

    rows = hugging_face_rows(10)
    if has_test_part:
        rows = datasets.DatasetDict({"train": rows, "validation": hugging_face_rows(4)})
    rows.save_to_disk(str(tmp_path / "saved"))
    data = load_data(f"hf:{tmp_path / 'saved'}")
    assert (len(data.train), len(data.test)) == ((10, 4) if has_test_part else (8, 2))
    for examples in (data.train, data.test):
        image, label = examples[0]
        assert image.shape == (1, 5, 6)
        assert int(image[0, 0, 0] * 255) % 2 == int(label)


def test_hugging_face_columns_that_are_not_there(tmp_path):
    hugging_face_rows(4).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UsageError, match="no column photo; it has text, picture, kind"):
        load_data(f"hf:{tmp_path / 'saved'}?image=photo")


def test_images_of_different_sizes_are_told_before_training(tmp_path):
    hugging_face_rows(6, ((6, 5), (4, 4))).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(TrainingError, match="a size"):
        load_data(f"hf:{tmp_path / 'saved'}")
    sized = load_data(f"hf:{tmp_path / 'saved'}", Preprocessing(size=4))
    assert sized.train[0][0].shape == (1, 4, 4)


def test_text_is_cut_into_windows_and_what_follows(tmp_path):
    text = bytes(range(200)) * 2
    (tmp_path / "t.txt").write_bytes(text)
    data = load_data(f"text:{tmp_path / 't.txt'}?context=9")
    assert (len(data.train), len(data.test)) == (359 // 9, 39 // 9)
    for index in range(len(data.train)):
        inputs, following = data.train[index]
        assert bytes(inputs.tolist()) == text[9 * index : 9 * index + 9]
        assert torch.equal(inputs[1:], following[:-1])
        assert int(following[-1]) == text[9 * index + 9]
        assert int(inputs.max()) < VOCABULARY_SIZE
    assert bytes(data.test[0][0].tolist()) == text[360:369]


@pytest.mark.parametrize(
    ("query", "message"),
    [("?context=x", "whole number"), ("?context=0", "at least 1"), ("?context=50", "last tenth")],
)
def test_text_that_cannot_be_cut(tmp_path, query, message):
    (tmp_path / "t.txt").write_text("so short a text", encoding="utf-8")
    with pytest.raises((UsageError, TrainingError), match=message):
        load_data(f"text:{tmp_path / 't.txt'}{query}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"crop": "padded"},
        {"mean": (0.5,)},
        {"mean": (0.5,), "std": (0.0,)},
    ],
)
def test_preprocessing_that_cannot_be_done(wrong):
    with pytest.raises(ValueError, match=r"size|std|channels"):
        Preprocessing(**wrong)
