"""Text for next-character prediction: windows of bytes and the bytes that follow."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spartan_planner.errors import TrainingError, UsageError
from spartan_planner.training.data.split import DataSplit

VOCABULARY_SIZE = 256
"""Characters are bytes of UTF-8, so that every text fits every model."""
DEFAULT_CONTEXT = 128
TEST_SHARE = 0.1


class TextWindows(Dataset[tuple[Tensor, ...]]):
    """Windows that follow one another in a text: inputs ``[context]``, and the same one later.

    Args:
        tokens: bytes ``[N]``, held as they are.
        context: characters of a window.
    """

    def __init__(self, tokens: Tensor, context: int) -> None:
        self._tokens = tokens
        self._context = context

    def __len__(self) -> int:
        """Return the number of windows."""
        return (len(self._tokens) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return characters and the ones that follow them, both int64 ``[context]``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index % len(self) * self._context
        window = self._tokens[start : start + self._context + 1].long()
        return window[:-1], window[1:]


def load_text(path: Path, context: int = DEFAULT_CONTEXT) -> DataSplit:
    """Read a text; its last tenth is the test set.

    Raises:
        UsageError: the file cannot be read, or the context is not positive.
        TrainingError: the text is shorter than two windows.
    """
    if context < 1:
        raise UsageError(f"data {path}: context {context} must be at least 1")
    try:
        tokens = torch.from_numpy(np.fromfile(path, np.uint8))
    except OSError as error:
        raise UsageError(f"data {path} cannot be read: {error.strerror or error}") from error
    num_training = len(tokens) - round(len(tokens) * TEST_SHARE)
    parts = [TextWindows(part, context) for part in (tokens[:num_training], tokens[num_training:])]
    if not all(len(part) for part in parts):
        raise TrainingError(
            f"data {path} has {len(tokens)} characters; its last tenth must hold a window of "
            f"{context} and one more"
        )
    return DataSplit(parts[0], parts[1])
