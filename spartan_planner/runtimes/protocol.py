"""What a runtime can do for whoever measures it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cost_models import LayerShape, Layout

Inputs = Mapping[str, NDArray[Any]]

LAYER_CLASSES = ("conv", "linear", "embedding")
"""Kinds of layers that a runtime's own operations can be told apart by."""


def layer_class(shape: LayerShape) -> str:
    """Return which of :data:`LAYER_CLASSES` a layer belongs to."""
    return "conv" if shape.is_convolution else shape.op


@dataclass(frozen=True)
class LayerSet:
    """Layers to run one after another, all in one form.

    Attributes:
        shapes: the layers.
        layout: in which they are lowered; ``None`` for the dense form.
        num_kept_blocks: of each lowered layer; empty for the dense form.
    """

    shapes: tuple[LayerShape, ...]
    layout: Layout | None = None
    num_kept_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse lowered layers of which nobody knows how much they keep."""
        if len(self.num_kept_blocks) != (len(self.shapes) if self.layout else 0):
            raise ValueError("every lowered layer, and no dense one, needs num_kept_blocks")


@dataclass(frozen=True)
class RunNode:
    """What a runtime runs and times as one, after it has optimized a model.

    Attributes:
        name: by which the runtime times it.
        op: the runtime's word for what it does.
        origins: names of nodes and values of the given model that it computes.
        sources: names of the nodes whose results it reads.
    """

    name: str
    op: str
    origins: frozenset[str]
    sources: tuple[str, ...]


PartsOf = Callable[[Sequence[RunNode]], Sequence[Sequence[str]]]
"""For each part of a model the names of its nodes, read off what the runtime runs."""


class Session(Protocol):
    """Something loaded that can be run and timed as a whole."""

    def time_ms(self) -> float:
        """Run once and return the time that it took."""
        ...

    def burst_ms(self) -> float:
        """Run until warm and return the median time of the next few runs."""
        ...


class PartTimer(Protocol):
    """Something loaded whose parts are timed inside the whole."""

    def burst(self) -> None:
        """Run until warm, then a few times more; the times of those are kept."""
        ...

    def times_ms(self) -> NDArray[np.float64]:
        """Stop and return the times, ``[bursts, parts]``, medians over each burst.

        Raises:
            ModelError: the runtime's record does not hold every part in every run.
        """
        ...


class Runtime(Protocol):
    """An inference runtime on one of its devices.

    Attributes:
        name: such as ``onnxruntime``.
        version: of the runtime.
        provider: what of the runtime computes, in its own words (``CPUExecutionProvider``).
        runs_onnx: whether :meth:`open` and :meth:`time_classes` work.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def provider(self) -> str: ...  # noqa: D102
    @property
    def runs_onnx(self) -> bool: ...  # noqa: D102

    def open(self, model: bytes | Path, num_threads: int, inputs: Inputs | None = None) -> Session:
        """Load an ONNX model; inputs are made up when none are given.

        Raises:
            ModelError: the runtime cannot load the model, or runs no ONNX.
        """
        ...

    def open_layers(self, layers: LayerSet, num_threads: int) -> Session:
        """Load layers to be timed as a whole.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        ...

    def time_layers(self, layers: LayerSet, num_threads: int) -> PartTimer:
        """Load layers whose parts are the layers, in order.

        Raises:
            CostModelError: a layer of an element type that is not measured.
        """
        ...

    def time_classes(self, model: bytes, num_threads: int) -> PartTimer | None:
        """Load an ONNX model whose parts are :data:`LAYER_CLASSES`.

        The time of a class is that of the operations of its kind that read a constant weight.
        ``None`` where the runtime does not tell what its operations take.

        Raises:
            ModelError: the runtime cannot load the model, or runs no ONNX.
        """
        ...

    def time_parts(
        self, model: Path, num_threads: int, inputs: Inputs, parts_of: PartsOf
    ) -> PartTimer | None:
        """Load an ONNX file whose parts are told by the caller.

        ``None`` where the runtime does not tell what its operations take.

        Raises:
            ModelError: the runtime cannot load the model, or runs no ONNX.
        """
        ...
