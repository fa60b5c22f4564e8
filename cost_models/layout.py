"""Layouts: what the blocks of a weight are.

A layout is written ``element``, ``tile:64x1`` (64 outputs by 1 input by the whole kernel), or
``tile:64x1@16``: the same tiles, *balanced* in steps of 16.  In a balanced layout every group of
outputs keeps the same number of inputs, a multiple of the step; which inputs is each group's own
choice.  That is the form which lowers to one grouped convolution without padding.  Its block is a
*rank slice*: in each group of outputs the inputs are ordered by value, and block ``r`` holds, for
every group, the inputs of rank ``r * step`` to ``(r + 1) * step - 1``.
"""

import math
import re
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from cost_models.errors import UnknownNameError


class LayoutKind(Enum):
    """The families of layouts."""

    ELEMENT = "element"
    TILE = "tile"


_TILE = re.compile(r"tile:(?P<out>[1-9]\d*)x(?P<in>[1-9]\d*)(@(?P<step>[1-9]\d*))?")


@dataclass(frozen=True)
class Layout:
    """What the blocks of a weight ``[out, in, *kernel]`` are.

    Attributes:
        kind: the family.
        tile_outputs: outputs of a tile.
        tile_inputs: inputs of a tile; a tile always spans the whole kernel.
        balanced_step: 0, or the number of inputs in a rank slice of a balanced layout.
    """

    kind: LayoutKind
    tile_outputs: int = 1
    tile_inputs: int = 1
    balanced_step: int = 0

    def __post_init__(self) -> None:
        """Refuse combinations that have no meaning."""
        if self.balanced_step and (self.kind is not LayoutKind.TILE or self.tile_inputs != 1):
            raise ValueError("only tiles of one input can be balanced")
        if self.tile_outputs < 1 or self.tile_inputs < 1 or self.balanced_step < 0:
            raise ValueError("the sizes of a tile must be positive")

    @staticmethod
    def parse(text: str) -> "Layout":
        """Read ``element``, ``tile:64x1`` or ``tile:64x1@16``.

        Raises:
            UnknownNameError: the text is none of these.
        """
        if text == "element":
            return Layout(LayoutKind.ELEMENT)
        match = _TILE.fullmatch(text)
        if match is None or (match["step"] and match["in"] != "1"):
            raise UnknownNameError(
                f"layout {text!r} is not known; write element, tile:OUTxIN (such as tile:64x1) "
                "or tile:OUTx1@STEP (balanced, such as tile:64x1@16)"
            )
        step = int(match["step"] or 0)
        return Layout(LayoutKind.TILE, int(match["out"]), int(match["in"]), step)

    def __str__(self) -> str:
        if self.kind is LayoutKind.ELEMENT:
            return "element"
        step = f"@{self.balanced_step}" if self.balanced_step else ""
        return f"tile:{self.tile_outputs}x{self.tile_inputs}{step}"

    def num_elements_per_block(self, weight_shape: tuple[int, ...]) -> int:
        """Elements of a whole (not ragged) block of a weight of that shape."""
        if self.kind is LayoutKind.ELEMENT:
            return 1
        outputs, inputs, *kernel = weight_shape
        if self.balanced_step:
            return outputs * min(self.balanced_step, inputs) * math.prod(kernel)
        return min(self.tile_outputs, outputs) * min(self.tile_inputs, inputs) * math.prod(kernel)

    def num_blocks(self, weight_shape: tuple[int, ...]) -> int:
        """Blocks of a weight of that shape, ragged ones included."""
        if self.kind is LayoutKind.ELEMENT:
            return math.prod(weight_shape)
        outputs, inputs = weight_shape[:2]
        if self.balanced_step:
            return math.ceil(inputs / self.balanced_step)
        return math.ceil(outputs / self.tile_outputs) * math.ceil(inputs / self.tile_inputs)

    def block_sizes(self, weight_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Size of each block in whole ones, in position order: below 1 where it is ragged."""
        if self.kind is LayoutKind.ELEMENT:
            return np.ones(math.prod(weight_shape))
        outputs, inputs = weight_shape[:2]
        if self.balanced_step:
            return _sizes_along(inputs, self.balanced_step)
        rows = _sizes_along(outputs, self.tile_outputs)
        return np.outer(rows, _sizes_along(inputs, self.tile_inputs)).reshape(-1)

    def num_whole_blocks(self, weight_shape: tuple[int, ...]) -> float:
        """Size of the weight in whole blocks; a ragged block counts for what it contains."""
        return math.prod(weight_shape) / self.num_elements_per_block(weight_shape)


def _sizes_along(length: int, tile: int) -> NDArray[np.float64]:
    whole, remainder = divmod(length, min(tile, length))
    return np.array([1.0] * whole + [remainder / min(tile, length)] * (remainder > 0))
