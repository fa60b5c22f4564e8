"""What is measured of a workload: its distinct shapes, dense and lowered, in networks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cost_models import LayerShape, Layout, Workload
from spartan_planner.errors import ProfileError
from spartan_planner.profiling.treatments import (
    DENSITIES,
    GROUP_SIZES,
    candidate_layouts,
    channel_points,
    kept_block_counts,
)
from spartan_planner.runtimes import LAYER_CLASSES, LayerSet

MAX_BATCH_BYTES = 320 * 1024 * 1024
"""Weights of all networks that are in memory together.  ONNX Runtime needs four times that: what
it read, what it repacked, and room to grow."""

MAX_COPIES_BYTES = 64 * 1024 * 1024
"""Weights of the copies of one shape in a dense network."""

BYTES_PER_WEIGHT = 4
"""Profiles are measured in float32."""


NUM_WHOLE_FIGURES = 1 + len(LAYER_CLASSES) + 1
"""Of the whole model: its time, that of each class of layers in it, and its time when lowered (0
where it cannot be)."""


@dataclass(frozen=True)
class Form:
    """One figure to measure: a shape, dense or with so many blocks kept in a layout."""

    shape: LayerShape
    layout: Layout | None = None
    num_kept_blocks: int = 0


@dataclass(frozen=True)
class Batch:
    """Networks that are in memory together.

    Attributes:
        networks: the dense one, one of the same shapes at fewer channels where these are
            measured, then the lowered ones.
        has_model: whether the whole model is measured beside them.
    """

    networks: tuple[LayerSet, ...]
    has_model: bool = False

    @cached_property
    def forms(self) -> tuple[Form, ...]:
        """The distinct figures of the networks, in order."""
        return tuple(dict.fromkeys(form for network in self.networks for form in _forms(network)))

    @cached_property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """For each network, the index in :attr:`forms` of each of its layers."""
        index = {form: place for place, form in enumerate(self.forms)}
        return tuple(tuple(index[form] for form in _forms(item)) for item in self.networks)

    @property
    def num_figures(self) -> int:
        """Figures per round: the forms, and of the model the whole and each class of layers."""
        return len(self.forms) + (NUM_WHOLE_FIGURES if self.has_model else 0)


def plan_measurements(
    workload: Workload, has_model: bool, *, with_channels: bool = False
) -> tuple[Batch, ...]:
    """Return what to measure, in batches that fit into memory.

    Args:
        workload: what to measure.
        has_model: whether the whole model is measured, beside the first batch.
        with_channels: whether layers are measured dense at fewer channels too.

    Raises:
        ProfileError: the workload has no layer that can be measured.
    """
    counts = workload.shape_counts()
    points = _channel_points(counts) if with_channels else {}
    batches = tuple(
        Batch(tuple(_networks(shapes, points)), has_model and number == 0)
        for number, shapes in enumerate(_shapes_of_batches(counts, points))
    )
    if not batches:
        raise ProfileError(f"workload {workload.model} has no layer to measure")
    return batches


_Points = Mapping[LayerShape, Sequence[LayerShape]]
"""By shape of the workload, those at fewer channels that are measured beside it."""


def _channel_points(shapes: Iterable[LayerShape]) -> _Points:
    """The channel points of each shape that no other shape is, or has, already."""
    in_order = list(shapes)
    seen = set(in_order)
    found: dict[LayerShape, list[LayerShape]] = {}
    for shape in in_order:
        found[shape] = [point for point in channel_points(shape) if point not in seen]
        seen.update(found[shape])
    return found


def _shapes_of_batches(
    counts: dict[LayerShape, int], points: _Points
) -> Iterator[list[LayerShape]]:
    """Split the shapes so that the networks of each batch stay within the size limit."""
    batch: list[LayerShape] = []
    size = 0.0
    for shape, count in counts.items():
        num_bytes = shape.num_weights * BYTES_PER_WEIGHT
        copies = max(1, min(count, MAX_COPIES_BYTES // num_bytes))
        num_dense_forms = 1 + sum(DENSITIES) * len(candidate_layouts(shape))
        added = copies * num_bytes * num_dense_forms
        added += sum(point.num_weights for point in points.get(shape, ())) * BYTES_PER_WEIGHT
        if batch and size + added > MAX_BATCH_BYTES:
            yield batch
            batch, size = [], 0.0
        batch += [shape] * copies
        size += added
    if batch:
        yield batch


def _networks(shapes: Sequence[LayerShape], points: _Points) -> Iterator[LayerSet]:
    yield LayerSet(tuple(shapes))
    fewer = [point for shape in dict.fromkeys(shapes) for point in points.get(shape, ())]
    if fewer:
        yield LayerSet(tuple(fewer))
    layouts = {layout for shape in shapes for layout in candidate_layouts(shape)}
    for layout in sorted(layouts, key=lambda item: GROUP_SIZES.index(item.tile_outputs)):
        fitting = tuple(shape for shape in shapes if layout in candidate_layouts(shape))
        for density in DENSITIES:
            kept = tuple(kept_block_counts(shape, layout, (density,))[0] for shape in fitting)
            yield LayerSet(fitting, layout, kept)


def _forms(network: LayerSet) -> Iterator[Form]:
    kept = network.num_kept_blocks or (0,) * len(network.shapes)
    for shape, count in zip(network.shapes, kept, strict=True):
        yield Form(shape, network.layout, count)
