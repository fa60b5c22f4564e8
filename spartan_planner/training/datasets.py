"""Data by name: the built-in digits, an ``.npz`` file, or a user's factory."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from spartan_planner.digits import digits_data
from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.model_names import load_object

Examples = Dataset[tuple[Tensor, ...]]
_TEST_SHARE = 0.2
_SPLIT_SEED = 0
_LARGEST_BYTE = 255.0


@dataclass(frozen=True)
class DataSplit:
    """Training and test examples, each an (input, label) pair."""

    train: Examples
    test: Examples


def load_data(name: str) -> DataSplit:
    """Return the data that ``name`` stands for.

    Args:
        name: ``digits``; the path of an ``.npz`` file with ``images`` and ``labels`` (and
            optionally ``test_images`` and ``test_labels``; else a fixed fifth is held out); or
            ``package.module:factory`` that returns a (train, test) pair of datasets.

    Raises:
        UsageError: the name stands for nothing.
        TrainingError: the file or the factory does not hold what is needed.
    """
    if name == "digits":
        return DataSplit(*digits_data())
    if name.endswith(".npz"):
        return _from_npz(Path(name))
    if ":" in name:
        return _from_factory(name)
    raise UsageError(
        f"data {name!r} is not known; write digits, the path of an .npz file or "
        "package.module:factory"
    )


def _from_factory(name: str) -> DataSplit:
    factory = load_object(name, "data")
    try:
        pair = factory()
    except Exception as error:
        raise TrainingError(f"data {name!r} fails to load: {error}") from error
    if (
        not isinstance(pair, tuple)
        or len(pair) != 2
        or not all(hasattr(part, "__len__") and hasattr(part, "__getitem__") for part in pair)
    ):
        raise TrainingError(f"data {name!r} must return a (train, test) pair of datasets")
    return DataSplit(*pair)


def _from_npz(path: Path) -> DataSplit:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"data {path} cannot be read: {error}") from error
    for key in ("images", "labels"):
        if key not in held:
            raise TrainingError(f"data {path} has no array {key!r}; it holds {sorted(held)}")
    examples = _examples(path, held["images"], held["labels"])
    if "test_images" in held and "test_labels" in held:
        return DataSplit(examples, _examples(path, held["test_images"], held["test_labels"]))
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    num_test = max(1, round(len(examples) * _TEST_SHARE))
    parts = [
        TensorDataset(*(tensor[part] for tensor in examples.tensors))
        for part in (order[num_test:], order[:num_test])
    ]
    return DataSplit(*parts)


def _examples(path: Path, images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TrainingError(
            f"data {path} has labels of type {labels.dtype} and shape {labels.shape}; "
            "one whole number per image is needed"
        )
    if images.ndim == 0 or len(images) != len(labels) or len(images) < 2:
        raise TrainingError(
            f"data {path} holds images of shape {images.shape} and {len(labels)} labels; "
            "equally many are needed, at least two"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.dtype == torch.uint8:
        tensor = tensor.float() / _LARGEST_BYTE
        if tensor.dim() == 4 and tensor.shape[-1] in (1, 3):
            tensor = tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(1)
    return TensorDataset(tensor.float(), torch.from_numpy(labels.astype(np.int64)))
