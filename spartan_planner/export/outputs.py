"""What a model returns, as arrays: tensors, and tensors inside tuples, dictionaries and objects."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from spartan_planner.errors import ExportError


def output_arrays(result: object) -> list[NDArray[np.generic]]:
    """Return the tensors of a model's result in their order; ``None`` stands for no output.

    Raises:
        ExportError: the result holds something else than tensors.
    """
    if result is None:
        return []
    if isinstance(result, Tensor):
        return [result.detach().cpu().numpy()]
    if isinstance(result, Mapping):
        return [array for item in result.values() for array in output_arrays(item)]
    if isinstance(result, tuple | list):
        return [array for item in result for array in output_arrays(item)]
    if dataclasses.is_dataclass(result):
        fields = dataclasses.fields(result)
        return [array for field in fields for array in output_arrays(getattr(result, field.name))]
    raise ExportError(f"the model returns {type(result).__name__}; tensors are needed")


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Keep a language model from returning its cache of keys and values beside its outputs.

    Hugging Face models do so wherever their configuration says ``use_cache``.  The cache serves
    generation token by token; a file that computes one pass has no use for it.
    """
    configs: list[Any] = [
        config
        for module in model.modules()
        if getattr(config := getattr(module, "config", None), "use_cache", False) is True
    ]
    for config in configs:
        config.use_cache = False
    try:
        yield
    finally:
        for config in configs:
            config.use_cache = True
