"""Images and labels from ``.npz`` files, held in memory as they are stored."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.training.data.preprocessing import Preprocessing, Transform, transform_of
from spartan_planner.training.data.split import DataSplit, hold_out

_TEST_NAMES = ("test", "val")
_Pixels = NDArray[np.generic]


class ImageArrays(Dataset[tuple[Tensor, ...]]):
    """Images ``[N, C, H, W]`` with labels ``[N]``; each image is transformed when it is asked for.

    Args:
        images: bytes or floats.
        labels: whole numbers.
        transform: makes the input.
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Transform) -> None:
        self._images = images
        self._labels = labels
        self._transform = transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return the input ``[C, H, W]`` and the label of an image."""
        return self._transform(self._images[index]), self._labels[index]


@dataclass(frozen=True)
class _Arrays:
    """Images ``[N, C, H, W]`` and labels ``[N]``."""

    images: Tensor
    labels: Tensor

    def examples(self, preprocessing: Preprocessing | None, is_training: bool) -> ImageArrays:
        return ImageArrays(self.images, self.labels, transform_of(preprocessing, is_training))


def load_arrays(paths: Sequence[Path], preprocessing: Preprocessing | None = None) -> DataSplit:
    """Read ``.npz`` files of images and labels.

    Args:
        paths: files with ``images`` (bytes or floats: ``[N, H, W]``, ``[N, H, W, C]`` or
            ``[N, C, H, W]``) and ``labels``; those whose names begin with ``test`` or ``val`` make
            the test set, as do ``test_images`` and ``test_labels`` in any of them; where there is
            neither a fixed fifth is held out.
        preprocessing: how images are prepared; pixels in [0, 1] by default.

    Raises:
        UsageError: a file cannot be read.
        TrainingError: a file lacks something, or the files do not fit together.
    """
    training: list[_Arrays] = []
    testing: list[_Arrays] = []
    for path in paths:
        held = _read(path)
        is_test = path.name.startswith(_TEST_NAMES)
        (testing if is_test else training).append(_arrays(path, held, ""))
        if "test_images" in held or "test_labels" in held:
            testing.append(_arrays(path, held, "test_"))
    if not training:
        raise TrainingError(f"data {paths[0]} is a test set; name the training files beside it")
    joined = _joined(paths, training)
    examples = joined.examples(preprocessing, is_training=True)
    if not testing:
        return hold_out(examples, joined.examples(preprocessing, is_training=False))
    return DataSplit(examples, _joined(paths, testing).examples(preprocessing, is_training=False))


def arrays_in(folder: Path) -> list[Path]:
    """Return the ``.npz`` files of a folder.

    Raises:
        UsageError: there is none.
    """
    found = sorted(folder.glob("*.npz"))
    if not found:
        raise UsageError(
            f"data {folder} is a folder without .npz files; for a folder of images write "
            f"imagefolder:{folder}, for a saved Hugging Face data set hf:{folder}"
        )
    return found


def _read(path: Path) -> dict[str, _Pixels]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"data {path} cannot be read: {error}") from error


def _arrays(path: Path, held: dict[str, _Pixels], prefix: str) -> _Arrays:
    for key in (f"{prefix}images", f"{prefix}labels"):
        if key not in held:
            raise TrainingError(f"data {path} has no array {key!r}; it holds {sorted(held)}")
    images, labels = held[f"{prefix}images"], held[f"{prefix}labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TrainingError(
            f"data {path} has labels of type {labels.dtype} and shape {labels.shape}; "
            "one whole number per image is needed"
        )
    if images.ndim not in (3, 4) or len(images) != len(labels) or len(images) < 2:
        raise TrainingError(
            f"data {path} holds images of shape {images.shape} and {len(labels)} labels; "
            "equally many are needed, at least two, as [N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    if images.dtype.kind not in "fiu":
        raise TrainingError(f"data {path} has images of type {images.dtype}; numbers are needed")
    return _Arrays(_channels_first(images), torch.from_numpy(labels.astype(np.int64)))


def _channels_first(images: _Pixels) -> Tensor:
    if images.ndim == 3:
        images = images[:, np.newaxis]
    elif images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, -1, 1)
    kept = images if images.dtype == np.uint8 else images.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(kept))


def _joined(paths: Sequence[Path], parts: Sequence[_Arrays]) -> _Arrays:
    kinds = {(tuple(part.images.shape[1:]), part.images.dtype) for part in parts}
    if len(kinds) > 1:
        shapes = sorted(str(shape) for shape, _ in kinds)
        raise TrainingError(
            f"data {', '.join(map(str, paths))} hold images of different shapes or types "
            f"({'; '.join(shapes)}); one model needs one"
        )
    return _Arrays(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )
