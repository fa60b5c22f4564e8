"""A tree of tensors and plain values as two files: safetensors and JSON, nothing pickled.

JSON holds the tree; where a tensor belongs it holds the tensor's name in the safetensors file.
What JSON cannot say is written as an object with one key that begins with ``$``: tensors, tuples,
dictionaries whose keys are no text, and numbers that are not finite.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spartan_planner.errors import DocumentError

_TENSOR, _TUPLE, _PAIRS, _NUMBER = "$tensor", "$tuple", "$pairs", "$number"


def write_state(folder: Path, name: str, tree: object) -> None:
    """Write ``tree`` as ``name.json`` and ``name.safetensors`` into ``folder``.

    Args:
        folder: exists.
        name: of both files, without a suffix.
        tree: dictionaries, lists and tuples of tensors, NumPy arrays, numbers, text, None.

    Raises:
        DocumentError: a file cannot be written.
        TypeError: the tree holds something else.
    """
    tensors: dict[str, Tensor] = {}
    plain = _to_plain(tree, "", tensors)
    text = json.dumps(plain, allow_nan=False) + "\n"
    try:
        save_file(tensors, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise DocumentError(f"{folder / name}.* cannot be written: {error}") from error


def read_state(folder: Path, name: str) -> Any:  # noqa: ANN401 - the tree that was written
    """Return the tree that :func:`write_state` wrote; NumPy arrays come back as tensors.

    Raises:
        DocumentError: a file is missing, or is not what was written.
    """
    try:
        tensors = load_file(folder / f"{name}.safetensors")
        plain = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return _from_plain(plain, tensors)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise DocumentError(
            f"{folder / name}.* cannot be read: {error}; remove {folder} to go on from what was "
            "saved before it"
        ) from error


def _to_plain(tree: object, path: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(tree, np.ndarray):
        tree = torch.from_numpy(tree)
    if isinstance(tree, Tensor):
        while path in tensors:  # keys with dots in them
            path += "_"
        # A copy: the format refuses tensors that share memory, and wants them contiguous.
        tensors[path] = tree.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: path}
    if isinstance(tree, Mapping):
        return _mapping_to_plain(tree, path, tensors)
    if isinstance(tree, list | tuple):
        items = [_to_plain(item, f"{path}.{i}".lstrip("."), tensors) for i, item in enumerate(tree)]
        return {_TUPLE: items} if isinstance(tree, tuple) else items
    if isinstance(tree, float) and not math.isfinite(tree):
        return {_NUMBER: str(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path or 'the state'} is a {type(tree).__name__}, which cannot be kept")


def _mapping_to_plain(
    tree: Mapping[Any, object], path: str, tensors: dict[str, Tensor]
) -> dict[str, object]:
    values = {
        key: _to_plain(value, f"{path}.{key}".lstrip("."), tensors) for key, value in tree.items()
    }
    if all(isinstance(key, str) and not key.startswith("$") for key in values):
        return values
    return {_PAIRS: [[key, value] for key, value in values.items()]}


def _from_plain(plain: Any, tensors: Mapping[str, Tensor]) -> object:  # noqa: ANN401 - any JSON
    if isinstance(plain, list):
        return [_from_plain(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if _TENSOR in plain:
        return tensors[plain[_TENSOR]]
    if _TUPLE in plain:
        return tuple(_from_plain(item, tensors) for item in plain[_TUPLE])
    if _PAIRS in plain:
        return {key: _from_plain(value, tensors) for key, value in plain[_PAIRS]}
    if _NUMBER in plain:
        return float(plain[_NUMBER])
    return {key: _from_plain(value, tensors) for key, value in plain.items()}
