"""Layouts: what the blocks of a weight are.

A layout is written ``element``, ``tile:64x1`` (64 outputs by 1 input by the whole kernel), or
``tile:64x1@16``: the same tiles, *balanced* in steps of 16.  In a balanced layout every group of
outputs keeps the same number of inputs, a multiple of the step; which inputs is each group's own
choice.  That is the form which lowers to one grouped convolution without padding.  Its block is a
*rank slice*: in each group of outputs the inputs are ordered by value, and block ``r`` holds, for
every group, the inputs of rank ``r * step`` to ``(r + 1) * step - 1``.

``N:M`` (such as ``2:4``) keeps the best ``N`` of every ``M`` consecutive inputs, for each output
and each place of the kernel on its own: the pattern that some devices have hardware for.  Its
blocks are ranks too: block ``r`` holds the element of rank ``r`` of every group of ``M``, and the
first ``N`` blocks are always what is kept.
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
    N_M = "n:m"


_TILE = re.compile(r"tile:(?P<out>[1-9]\d*)x(?P<in>[1-9]\d*)(@(?P<step>[1-9]\d*))?")
_N_M = re.compile(r"(?P<kept>[1-9]\d{0,3}):(?P<of>[1-9]\d{0,3})")


@dataclass(frozen=True)
class Layout:
    """What the blocks of a weight ``[out, in, *kernel]`` are.

    Attributes:
        kind: the family.
        tile_outputs: outputs of a tile.
        tile_inputs: inputs of a tile; a tile always spans the whole kernel.
        balanced_step: 0, or the number of inputs in a rank slice of a balanced layout.
        num_kept: 0, or what an n:m layout keeps of each group.
        num_of: 0, or the inputs of such a group.
    """

    kind: LayoutKind
    tile_outputs: int = 1
    tile_inputs: int = 1
    balanced_step: int = 0
    num_kept: int = 0
    num_of: int = 0

    def __post_init__(self) -> None:
        """Refuse combinations that have no meaning."""
        if self.balanced_step and (self.kind is not LayoutKind.TILE or self.tile_inputs != 1):
            raise ValueError("only tiles of one input can be balanced")
        if self.tile_outputs < 1 or self.tile_inputs < 1 or self.balanced_step < 0:
            raise ValueError("the sizes of a tile must be positive")
        is_n_m = self.kind is LayoutKind.N_M
        if is_n_m != (0 < self.num_kept < self.num_of) or (not is_n_m and self.num_of):
            raise ValueError("n:m keeps n of m, more than none and fewer than all; no tile does")
        if is_n_m and (self.tile_outputs, self.tile_inputs, self.balanced_step) != (1, 1, 0):
            raise ValueError("n:m has no tile")

    @staticmethod
    def parse(text: str) -> "Layout":
        """Read ``element``, ``tile:64x1``, ``tile:64x1@16`` or ``2:4``.

        Raises:
            UnknownNameError: the text is none of these.
        """
        if text == "element":
            return Layout(LayoutKind.ELEMENT)
        pattern = _N_M.fullmatch(text)
        if pattern and int(pattern["kept"]) < int(pattern["of"]):
            return Layout.n_m(int(pattern["kept"]), int(pattern["of"]))
        match = _TILE.fullmatch(text)
        if match is None or (match["step"] and match["in"] != "1"):
            raise UnknownNameError(
                f"layout {text!r} is not known; write element, tile:OUTxIN (such as tile:64x1), "
                "tile:OUTx1@STEP (balanced, such as tile:64x1@16) or N:M (fewer of more, such as "
                "2:4)"
            )
        step = int(match["step"] or 0)
        return Layout(LayoutKind.TILE, int(match["out"]), int(match["in"]), step)

    @staticmethod
    def n_m(num_kept: int, num_of: int) -> "Layout":
        """Return the layout that keeps ``num_kept`` of every ``num_of`` inputs."""
        return Layout(LayoutKind.N_M, num_kept=num_kept, num_of=num_of)

    def __str__(self) -> str:
        if self.kind is LayoutKind.ELEMENT:
            return "element"
        if self.kind is LayoutKind.N_M:
            return f"{self.num_kept}:{self.num_of}"
        step = f"@{self.balanced_step}" if self.balanced_step else ""
        return f"tile:{self.tile_outputs}x{self.tile_inputs}{step}"

    def fits(self, weight_shape: tuple[int, ...]) -> bool:
        """Whether a weight of that shape can have the layout: n:m needs whole groups of inputs."""
        return self.kind is not LayoutKind.N_M or weight_shape[1] % self.num_of == 0

    def num_elements_per_block(self, weight_shape: tuple[int, ...]) -> int:
        """Elements of a whole (not ragged) block of a weight of that shape."""
        if self.kind is LayoutKind.ELEMENT:
            return 1
        outputs, inputs, *kernel = weight_shape
        if self.kind is LayoutKind.N_M:
            return outputs * math.ceil(inputs / self.num_of) * math.prod(kernel)
        if self.balanced_step:
            return outputs * min(self.balanced_step, inputs) * math.prod(kernel)
        return min(self.tile_outputs, outputs) * min(self.tile_inputs, inputs) * math.prod(kernel)

    def num_blocks(self, weight_shape: tuple[int, ...]) -> int:
        """Blocks of a weight of that shape, ragged ones included."""
        if self.kind is LayoutKind.ELEMENT:
            return math.prod(weight_shape)
        outputs, inputs = weight_shape[:2]
        if self.kind is LayoutKind.N_M:
            return min(self.num_of, inputs)
        if self.balanced_step:
            return math.ceil(inputs / self.balanced_step)
        return math.ceil(outputs / self.tile_outputs) * math.ceil(inputs / self.tile_inputs)

    def block_sizes(self, weight_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Size of each block in whole ones, in position order: below 1 where it is ragged."""
        if self.kind is LayoutKind.ELEMENT:
            return np.ones(math.prod(weight_shape))
        outputs, inputs = weight_shape[:2]
        if self.kind is LayoutKind.N_M:
            groups = _sizes_along(inputs, self.num_of) * min(self.num_of, inputs)
            ranks = np.arange(min(self.num_of, inputs))
            return np.array([np.count_nonzero(groups > rank) / groups.size for rank in ranks])
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
