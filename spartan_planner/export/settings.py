"""How an exported file is written."""

from dataclasses import dataclass

import torch

from spartan_planner.errors import UsageError
from spartan_planner.export.torch_to_onnx import MAX_OPSET, MIN_OPSET, OPSET

DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""Element types that a file can be asked for, by name."""


@dataclass(frozen=True)
class ExportSettings:
    """How to write a file.

    Attributes:
        dtype: ``float32`` or ``float16``, of weights and of floating point inputs and outputs; the
            model's own by default.
        opset: version of ONNX's operators.
        is_batch_dynamic: whether the first dimension of every input is a batch of any size.
        external_data: whether weights go into a file beside the model; by default only where they
            do not fit inside, above 2 GB.
    """

    dtype: str | None = None
    opset: int = OPSET
    is_batch_dynamic: bool = True
    external_data: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what no file can be."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r} is not known; use {' or '.join(DTYPES)}")
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(
                f"opset {self.opset} cannot be written; use one from {MIN_OPSET} to {MAX_OPSET}"
            )
