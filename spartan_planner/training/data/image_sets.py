"""Images that are opened when they are asked for: folders, torchvision's and Hugging Face's sets.

Nothing but paths and labels is held in memory.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.model_names import import_models
from spartan_planner.training.data.preprocessing import (
    IMAGENET,
    Preprocessing,
    transform_of,
    with_usual_mode,
)
from spartan_planner.training.data.split import DataSplit, hold_out, num_examples

_TEST_FOLDERS = ("val", "test", "validation")
_TEST_SPLITS = ("test", "val", "validation", "valid")
_NUM_COMPARED = 8
"""Images whose sizes are compared before any work."""


class OpenedImages(Dataset[tuple[Tensor, ...]]):
    """Pairs of an image of Pillow's and a label, made into tensors when they are asked for.

    Args:
        pairs: returns the pair at a position.
        count: number of pairs.
        preprocessing: how images are prepared.
        is_training: whether to augment.
    """

    def __init__(
        self,
        pairs: Callable[[int], tuple[Any, int]],
        count: int,
        preprocessing: Preprocessing | None,
        is_training: bool,
    ) -> None:
        self._pairs = pairs
        self._count = count
        self._num_channels = preprocessing.num_channels if preprocessing else None
        self._transform = transform_of(preprocessing, is_training)

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return the input ``[C, H, W]`` and the label of an image."""
        image, label = self._pairs(index)
        shown = with_usual_mode(image, self._num_channels)
        return self._transform(shown), torch.tensor(int(label))


def load_image_folder(path: Path, preprocessing: Preprocessing | None = None) -> DataSplit:
    """Open a folder of images, one folder per class.

    Args:
        path: a folder with ``train`` and ``val`` (or ``test``), each with one folder per class; or
            with one folder per class, a fixed fifth of which is held out.
        preprocessing: how images are prepared; what is usual for ImageNet by default.

    Raises:
        UsageError: the folder is missing or holds no images.
        TrainingError: training and test images are of different classes.
        ModelError: torchvision is not installed.
    """
    preprocessing = preprocessing or IMAGENET
    if not path.is_dir():
        raise UsageError(f"data imagefolder:{path}: there is no such folder; check the path")
    if not (path / "train").is_dir():
        images = _folder(path)
        return hold_out(*(_opened(images, preprocessing, flag) for flag in (True, False)))
    training = _folder(path / "train")
    tests = [path / name for name in _TEST_FOLDERS if (path / name).is_dir()]
    if not tests:
        raise UsageError(
            f"data imagefolder:{path} has a folder train but none named "
            f"{' or '.join(_TEST_FOLDERS)}; add one"
        )
    testing = _folder(tests[0])
    if training.classes != testing.classes:
        odd = sorted(set(training.classes) ^ set(testing.classes))[0]
        raise TrainingError(
            f"data imagefolder:{path}: class {odd!r} is in only one of train and {tests[0].name}"
        )
    return DataSplit(
        _opened(training, preprocessing, is_training=True),
        _opened(testing, preprocessing, is_training=False),
    )


def _folder(path: Path) -> Any:  # noqa: ANN401 - a data set of torchvision's
    datasets = import_models("torchvision.datasets")
    try:
        return datasets.ImageFolder(str(path))
    except (FileNotFoundError, OSError) as error:
        raise UsageError(
            f"data imagefolder:{path} holds no images in one folder per class: {error}"
        ) from error


def load_torchvision(
    name: str, root: Path, download: bool, preprocessing: Preprocessing | None = None
) -> DataSplit:
    """Open a classification data set of torchvision's.

    Args:
        name: its class, such as ``CIFAR10``.
        root: where its files are.
        download: whether to fetch them when they are not there.
        preprocessing: how images are prepared; pixels in [0, 1] by default.

    Raises:
        UsageError: no such data set, or its files are not there.
        TrainingError: its images are of different sizes and no size is asked for.
        ModelError: torchvision is not installed.
    """
    datasets = import_models("torchvision.datasets")
    make = getattr(datasets, name, None) if name in datasets.__all__ else None
    takes = inspect.signature(make).parameters if make else {}
    if make is None or not {"train", "split"} & set(takes):
        known = [item for item in datasets.__all__ if _has_two_parts(getattr(datasets, item))]
        raise UsageError(
            f"torchvision has no data set {name!r} with training and test images; it has "
            f"{', '.join(known)}"
        )
    options = {"download": True} if download and "download" in takes else {}
    if "train" in takes:
        parts = [_made(name, make, root, {"train": flag, **options}) for flag in (True, False)]
    else:
        splits = (("train",), _TEST_SPLITS)
        parts = [_first_made(name, make, root, names, options) for names in splits]
    return _checked(f"torchvision:{name}", parts[0], parts[1], preprocessing)


def _has_two_parts(make: Any) -> bool:  # noqa: ANN401 - a class of torchvision's
    return bool({"train", "split"} & set(inspect.signature(make).parameters))


def _first_made(
    name: str,
    make: Callable[..., Any],
    root: Path,
    splits: Sequence[str],
    options: Mapping[str, object],
) -> Any:  # noqa: ANN401 - a data set of torchvision's
    """Data sets name their test part differently and refuse other names by a ValueError."""
    for split in splits:
        try:
            return _made(name, make, root, {"split": split, **options})
        except ValueError:
            continue
    raise UsageError(f"torchvision's {name} has no part named {' or '.join(splits)}")


def _made(name: str, make: Callable[..., Any], root: Path, options: Mapping[str, object]) -> Any:  # noqa: ANN401 - a data set of torchvision's
    try:
        return make(str(root), **options)
    except (RuntimeError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"data torchvision:{name}?root={root} cannot be opened: {reason}; put its files there "
            "or add &download=yes"
        ) from error


def load_hugging_face(
    name: str,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> DataSplit:
    """Open an image data set by Hugging Face ``datasets``.

    Args:
        name: of a data set on the hub, or the path of one that was saved or of a folder of files
            that the library reads.
        config: its configuration, where it has several.
        image: its column of images; by default the first.
        label: its column of labels; by default the first of class labels.
        preprocessing: how images are prepared; pixels in [0, 1] by default.

    Raises:
        UsageError: no such data set, or no such columns.
        TrainingError: its images are of different sizes and no size is asked for.
    """
    library = _import_datasets()
    loaded = _read_hugging_face(library, name, config)
    parts = loaded if isinstance(loaded, dict) else {"train": loaded}
    if "train" not in parts:
        raise UsageError(f"data hf:{name} has no part train; it has {', '.join(parts)}")
    columns = _columns(library, name, parts["train"].features, image, label)
    training = _pairs_of(parts["train"], columns)
    tests = [key for key in _TEST_SPLITS if key in parts]
    testing = _pairs_of(parts[tests[0]], columns) if tests else None
    return _checked(f"hf:{name}", training, testing, preprocessing)


def _import_datasets() -> Any:  # noqa: ANN401 - a module
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"Hugging Face datasets cannot be imported ({error}); install it with "
            "pip install 'spartan-planner[data]'"
        ) from error
    return datasets


def _read_hugging_face(library: Any, name: str, config: str | None) -> Any:  # noqa: ANN401
    try:
        folder = Path(name)
        saved = ("dataset_dict.json", "state.json")
        if folder.is_dir() and any((folder / item).is_file() for item in saved):
            return library.load_from_disk(name)
        return library.load_dataset(name, config)
    # The library fails in many ways of its own: unknown names, no network, broken files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"data hf:{name} cannot be opened: {reason}; give the name of a data set or the path "
            "of a saved one"
        ) from error


def _columns(
    library: Any,  # noqa: ANN401 - a module
    name: str,
    features: Mapping[str, object],
    image: str | None,
    label: str | None,
) -> tuple[str, str]:
    chosen = []
    for option, given, kind in (
        ("image", image, library.Image),
        ("label", label, library.ClassLabel),
    ):
        found = [given] if given else [k for k, item in features.items() if isinstance(item, kind)]
        if not found or found[0] not in features:
            raise UsageError(
                f"data hf:{name} has no column {given or 'of type ' + kind.__name__}; it has "
                f"{', '.join(features)}: choose one by ?{option}=COLUMN"
            )
        chosen.append(found[0])
    return chosen[0], chosen[1]


class _Pairs:
    """Rows of a Hugging Face data set as pairs of image and label."""

    def __init__(self, rows: Any, columns: tuple[str, str]) -> None:  # noqa: ANN401
        self._rows = rows
        self._columns = columns

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = self._rows[index]
        image, label = (row[column] for column in self._columns)
        return image, label


def _pairs_of(rows: Any, columns: tuple[str, str]) -> _Pairs:  # noqa: ANN401
    return _Pairs(rows.select_columns(list(columns)), columns)


def _opened(pairs: Any, preprocessing: Preprocessing | None, is_training: bool) -> OpenedImages:  # noqa: ANN401
    return OpenedImages(pairs.__getitem__, len(pairs), preprocessing, is_training)


def _checked(
    name: str,
    training: Any,  # noqa: ANN401 - pairs of images and labels
    testing: Any,  # noqa: ANN401 - the same, or none
    preprocessing: Preprocessing | None,
) -> DataSplit:
    """Return the split of pairs, after a look at some of them."""
    examples = _opened(training, preprocessing, is_training=True)
    rest = training if testing is None else testing
    tests = _opened(rest, preprocessing, is_training=False)
    for part in (examples, tests):
        _refuse_different_sizes(name, part)
    return hold_out(examples, tests) if testing is None else DataSplit(examples, tests)


def _refuse_different_sizes(name: str, examples: OpenedImages) -> None:
    shapes = {}
    for index in range(min(_NUM_COMPARED, num_examples(examples))):
        try:
            shapes[tuple(examples[index][0].shape)] = index
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"data {name}: image {index} cannot be read: {error}") from error
    if not shapes:
        raise TrainingError(f"data {name} holds no images")
    if len(shapes) > 1:
        found = " and ".join(map(str, list(shapes)[:2]))
        raise TrainingError(
            f"data {name} has images of shapes {found}; give the preprocessing of a recipe a size"
        )
