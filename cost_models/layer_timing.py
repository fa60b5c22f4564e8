"""Measured times of layers and of whole models."""

from dataclasses import dataclass

from cost_models.documents import document
from cost_models.figures import (
    require_not_negative,
    require_positive,
)
from cost_models.layout import Layout
from cost_models.linear_cost import LinearCost
from cost_models.workload import LayerShape

_MOST_MISFIT = 3.0
"""A fit that is off by more than this factor at every one of its samples is not theirs."""

_ROUNDING = 0.01
"""Relative: what rounding may add to a sum of times."""


@document
@dataclass(frozen=True)
class Sample:
    """One measured point: so many whole blocks kept took so long."""

    num_kept_blocks: int
    latency_ms: float

    def __post_init__(self) -> None:
        """Refuse figures that nobody can have measured."""
        require_not_negative(self, "num_kept_blocks")
        require_positive(self, "latency_ms")


@document
@dataclass(frozen=True)
class SparseTiming:
    """The fitted time of the lowered form of a layer in one layout.

    Attributes:
        layout: text form of the layout.
        fixed_ms, per_block_ms: the fit ``fixed_ms + per_block_ms * kept blocks``.
        max_fit_error: largest ``|fitted / measured - 1|`` over the samples.
        samples: what was measured.
    """

    layout: str
    fixed_ms: float
    per_block_ms: float
    max_fit_error: float
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Refuse unknown layouts and negative times."""
        Layout.parse(self.layout)
        require_not_negative(self, "fixed_ms", "per_block_ms", "max_fit_error")
        if not self.samples:
            raise ValueError("samples must hold what was measured, they are empty")
        if not any(self._is_near(sample) for sample in self.samples):
            raise ValueError(
                "fixed_ms and per_block_ms must tell the time of a sample, they are off by more "
                f"than a factor {_MOST_MISFIT:g} at every one"
            )

    def _is_near(self, sample: Sample) -> bool:
        fitted = self.fixed_ms + self.per_block_ms * sample.num_kept_blocks
        return sample.latency_ms / _MOST_MISFIT <= fitted <= sample.latency_ms * _MOST_MISFIT

    def require_fit(self, shape: LayerShape) -> None:
        """Refuse a layer whose weight has fewer blocks than a sample kept.

        Raises:
            ValueError: saying how many it has.
        """
        num_blocks = Layout.parse(self.layout).num_blocks(shape.weight_shape)
        most = max(sample.num_kept_blocks for sample in self.samples)
        if most > num_blocks:
            raise ValueError(
                f"a sample of {self.layout} keeps {most} blocks, the weight has {num_blocks}"
            )


@document
@dataclass(frozen=True)
class LayerTiming:
    """The times of one distinct layer shape.

    Attributes:
        shape: the shape.
        dense_ms: median time of the dense form.
        relative_spread: half the interquartile range of the dense form over its median.
        sparse: the lowered forms that were measured.
    """

    shape: LayerShape
    dense_ms: float
    relative_spread: float
    sparse: tuple[SparseTiming, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that are not positive, and one layout timed twice."""
        require_positive(self, "dense_ms")
        require_not_negative(self, "relative_spread")
        layouts = [sparse.layout for sparse in self.sparse]
        if len(set(layouts)) != len(layouts):
            raise ValueError("sparse must not hold the same layout twice")
        for sparse in self.sparse:
            sparse.require_fit(self.shape)

    def linear_cost(self, sparse: SparseTiming) -> LinearCost:
        """Return the linear cost of one of the sparse forms."""
        return LinearCost(self.dense_ms, sparse.fixed_ms, sparse.per_block_ms, "ms")

    def break_even_density(self, sparse: SparseTiming) -> float:
        """Return the density under which that sparse form beats the dense one."""
        num_blocks = Layout.parse(sparse.layout).num_whole_blocks(self.shape.weight_shape)
        return self.linear_cost(sparse).break_even_density(num_blocks)


@document
@dataclass(frozen=True)
class ModelTiming:
    """A whole dense model, measured.

    Attributes:
        model: what the workload calls it.
        fingerprint: the workload's.
        dense_ms: time of one run.
        layers_ms: the part of it that belongs to layers.
        rest_ms: the part that belongs to no layer: other operations and the run itself.
        shapes_digest: :func:`cost_models.shapes_digest.shapes_digest` of the workload, which says
            at which input shapes it ran; empty where nobody noted it: then it fits no workload.
    """

    model: str
    fingerprint: str
    dense_ms: float
    layers_ms: float
    rest_ms: float
    shapes_digest: str = ""

    def __post_init__(self) -> None:
        """Refuse times that are not positive."""
        require_positive(self, "dense_ms", "layers_ms")
        require_not_negative(self, "rest_ms")
        rest_ms = max(0.0, self.dense_ms - self.layers_ms)
        if abs(self.rest_ms - rest_ms) > _ROUNDING * self.dense_ms:
            raise ValueError(
                f"layers_ms and rest_ms must add up to dense_ms, which leaves {rest_ms:g} for "
                f"rest_ms, found {self.rest_ms:g}"
            )
