"""Data by name: what the text behind ``--data`` stands for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from spartan_planner.digits import digits_data
from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.model_names import load_object
from spartan_planner.training.data.arrays import arrays_in, load_arrays
from spartan_planner.training.data.image_sets import (
    load_hugging_face,
    load_image_folder,
    load_torchvision,
)
from spartan_planner.training.data.preprocessing import Preprocessing
from spartan_planner.training.data.split import DataSplit, Examples
from spartan_planner.training.data.text import DEFAULT_CONTEXT, load_text

__all__ = ["FORMS", "DataSplit", "Examples", "Preprocessing", "load_data"]

FORMS = (
    "digits; the path of an .npz file, of several with commas between them or of a folder of them; "
    "imagefolder:PATH; torchvision:NAME?root=PATH[&download=yes]; "
    "hf:NAME[?config=..&image=COLUMN&label=COLUMN]; text:PATH[?context=128]; or "
    "package.module:factory"
)
"""What a name of data may look like, for help texts and messages."""

_Options = Mapping[str, str]
_Loader = Callable[[str, _Options, Preprocessing | None], DataSplit]


def load_data(name: str, preprocessing: Preprocessing | None = None) -> DataSplit:
    """Return the data that ``name`` stands for.

    Args:
        name: one of :data:`FORMS`.  Arrays: ``images`` and ``labels``; files whose names begin
            with ``test`` or ``val`` are the test set, else a fixed fifth is held out.  A factory
            returns a (train, test) pair of datasets.
        preprocessing: how images are prepared; by default pixels in [0, 1], and for a folder of
            images what is usual for ImageNet.

    Raises:
        UsageError: the name stands for nothing.
        TrainingError: the files or the factory do not hold what is needed.
        ModelError: a package that the data need is not installed.
    """
    body, _, query = name.partition("?")
    source, has_colon, rest = body.partition(":")
    if has_colon and source in _SOURCES:
        load, allowed = _SOURCES[source]
        return load(rest, _options(name, query, allowed), preprocessing)
    options = _options(name, query, ())
    if body == "digits":
        _refuse_preprocessing(name, preprocessing)
        return DataSplit(*digits_data())
    if body.endswith(".npz") or Path(body).is_dir():
        return load_arrays(_array_files(body), preprocessing)
    if body.endswith(".txt"):
        return _text(body, options, preprocessing)
    if has_colon:
        _refuse_preprocessing(name, preprocessing)
        return _from_factory(name)
    raise UsageError(f"data {name!r} is not known; write {FORMS}")


def _array_files(body: str) -> list[Path]:
    if Path(body).is_dir():
        return arrays_in(Path(body))
    return [Path(part) for part in body.split(",")]


def _options(name: str, query: str, allowed: tuple[str, ...]) -> _Options:
    """Read ``key=value&key=value``."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise UsageError(f"data {name!r}: options are written ?key=value&key=value") from error
    for key, _ in pairs:
        if key not in allowed:
            known = f"it has {', '.join(allowed)}" if allowed else "it has none"
            raise UsageError(f"data {name!r} has no option {key!r}; {known}")
    return dict(pairs)


def _torchvision(rest: str, options: _Options, preprocessing: Preprocessing | None) -> DataSplit:
    download = _is_yes(options.get("download", "no"))
    return load_torchvision(rest, Path(options.get("root", "data")), download, preprocessing)


def _is_yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise UsageError(f"download={text} is not understood; write download=yes or download=no")
    return text == "yes"


def _image_folder(rest: str, options: _Options, preprocessing: Preprocessing | None) -> DataSplit:
    del options
    return load_image_folder(Path(rest), preprocessing)


def _hugging_face(rest: str, options: _Options, preprocessing: Preprocessing | None) -> DataSplit:
    columns = {key: options.get(key) for key in ("config", "image", "label")}
    return load_hugging_face(rest, **columns, preprocessing=preprocessing)


def _text(rest: str, options: _Options, preprocessing: Preprocessing | None) -> DataSplit:
    _refuse_preprocessing(rest, preprocessing)
    context = options.get("context", str(DEFAULT_CONTEXT))
    if not context.isdecimal():
        raise UsageError(f"data {rest}: context={context} must be a whole number")
    return load_text(Path(rest), int(context))


_SOURCES: dict[str, tuple[_Loader, tuple[str, ...]]] = {
    "torchvision": (_torchvision, ("root", "download")),
    "imagefolder": (_image_folder, ()),
    "hf": (_hugging_face, ("config", "image", "label")),
    "text": (_text, ("context",)),
}


def _refuse_preprocessing(name: str, preprocessing: Preprocessing | None) -> None:
    if preprocessing is not None:
        raise UsageError(
            f"data {name!r} come ready for the model and take no preprocessing; leave it out"
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
