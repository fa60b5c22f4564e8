"""Whether two files that hold the same weights compute the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spartan_planner.errors import ModelError
from spartan_planner.export_metadata import ExportMetadata

RELATIVE_TOLERANCE = 1e-4
"""Largest difference relative to the largest output: float32 sums in another order."""

HALF_RELATIVE_TOLERANCE = 2e-2
"""The same for float16, whose every rounding is off by up to 5e-4: some forty of them in a row."""

Arrays = Sequence[NDArray[np.generic]]


def holds_same_weights(one: ExportMetadata | None, other: ExportMetadata | None) -> bool:
    """Whether both files were exported from the very same weights, in whatever form."""
    fingerprints = [item.weights_fingerprint if item else None for item in (one, other)]
    return fingerprints[0] is not None and fingerprints[0] == fingerprints[1]


def max_abs_error(left: Arrays, right: Arrays) -> float:
    """Return the largest difference between the outputs of two files.

    Raises:
        ModelError: the files have other outputs.
    """
    shapes = [[array.shape for array in arrays] for arrays in (left, right)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"the files return outputs of shapes {shapes[0]} and {shapes[1]}; compare a file with "
            "the dense one of the same model"
        )
    errors = [
        float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0))
        for one, other in zip(left, right, strict=True)
    ]
    return max(errors, default=0.0)


def allowed_error(left: Arrays, right: Arrays) -> float:
    """Return how large a difference rounding explains."""
    arrays = [*left, *right]
    largest = max((float(np.max(np.abs(item), initial=0.0)) for item in arrays), default=0.0)
    is_half = any(item.dtype == np.float16 for item in arrays)
    return (HALF_RELATIVE_TOLERANCE if is_half else RELATIVE_TOLERANCE) * largest
