"""What to prune on a device: which layouts pay for which layers of a model, and from where on.

Pure functions of a profile and a workload; needs no torch.  Times are those of the cost model
``latency``: measured where the profile holds a timing, estimated elsewhere; each row says which.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cost_models import (
    CostModel,
    CostModelError,
    DeviceProfile,
    LayerWorkload,
    Layout,
    LinearCost,
    Workload,
    cost_model,
)
from cost_models.layer_work import layer_class
from cost_models.linear_cost import CostSource
from spartan_planner.granularities import WORTHWHILE, Granularity, judge_granularities
from spartan_planner.profiling.treatments import candidate_layouts

DENSITIES = (0.5, 0.25, 0.1)
"""Kept shares at which advice says whether a layout pays."""


@dataclass(frozen=True)
class LayoutAdvice:
    """One layout for all layers of a class that can be executed in it.

    Attributes:
        layer_class: class of the layers, such as ``conv``.
        layout: text form of the layout.
        num_layers: how many layers of the model that is.
        dense_share: their share of the model's dense time.
        break_even: least, median and greatest density under which the layout beats dense.
        speedups: density to dense time over the time of the sparse form, over all these layers.
        kept: density asked to the density really kept: whole blocks, one per layer at least.
        source: whether all the times were measured.
        error_band: least and greatest factor between measured and estimated times to expect;
            ``None`` where all were measured.
    """

    layer_class: str
    layout: str
    num_layers: int
    dense_share: float
    break_even: tuple[float, float, float]
    speedups: dict[float, float]
    kept: dict[float, float]
    source: CostSource
    error_band: tuple[float, float] | None

    def pays(self, density: float) -> bool:
        """Whether the sparse form is faster at that density by more than measurements scatter."""
        return self.speedups[density] >= WORTHWHILE

    def sentence(self) -> str:
        """Say in one sentence what the figures mean."""
        paying = [density for density in self.speedups if self.pays(density)]
        what = f"{self.layout} for {self.layer_class} layers ({self.dense_share:.0%} of the time)"
        hedge = f", by estimate ({_band(self.error_band)})" if self.error_band else ""
        if not paying:
            least = min(self.speedups)
            return (
                f"{what} does not pay{hedge}: {self.speedups[least]:.2f}x at "
                f"{self.kept[least]:.0%} density."
            )
        told = {f"{self.kept[d]:.0%}": f"{self.speedups[d]:.1f}x" for d in paying}
        figures = ", ".join(f"{speedup} at {density}" for density, speedup in told.items())
        start = (
            "at half the weights and below"
            if max(paying) >= max(self.speedups)
            else (f"only at {self.kept[max(paying)]:.0%} density or less")
        )
        return f"{what} pays {start}{hedge}: {figures}."


def _band(band: tuple[float, float]) -> str:
    return f"expect {band[0]:.2g} to {band[1]:.2g} times the estimate"


@dataclass(frozen=True)
class Advice:
    """What pays on a device for a model.

    Attributes:
        profile: name of the device's profile.
        model: name of the model.
        dense_ms: time of the dense model, of what could be priced; ``None`` where no layer was.
        rows: by class of layer, the most of the time first, and layout, the fastest first.
        dense_only_share: share of the dense time that no layout can reduce; ``None`` where no
            layer could be priced.
        granularities: what other granularities gain.
        not_priced: why layers or layouts could not be priced, each reason once.
    """

    profile: str
    model: str
    dense_ms: float | None
    rows: tuple[LayoutAdvice, ...]
    dense_only_share: float | None
    granularities: tuple[Granularity, ...]
    not_priced: tuple[str, ...]

    def sentences(self) -> tuple[str, ...]:
        """Say per row what it means, then what no layout helps and what could not be told."""
        reasons = [f"Not priced: {reason}." for reason in self.not_priced]
        if self.dense_ms is None:
            nothing = (
                f"On {self.profile} no layer of {self.model} can be priced, so nothing is told"
            )
            return (f"{nothing} of what pays.", *reasons)
        said = [row.sentence() for row in self.rows]
        if not self.rows:
            said.append(f"On {self.profile} no layer of {self.model} can be lowered.")
        said += [item.sentence() for item in self.granularities]
        if self.dense_only_share:
            said.append(f"{self.dense_only_share:.0%} of the time no layout can reduce.")
        return (*said, *reasons)


class _Reasons:
    """Why layers could not be priced, each reason once with the layers that it is about."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, error: CostModelError, layer: str) -> None:
        """Note why a layer, or the rest of the model, could not be priced."""
        names = self._names.setdefault(str(error).removeprefix(f"layer {layer}: "), [])
        if layer not in names:
            names.append(layer)

    def told(self) -> tuple[str, ...]:
        """Each reason with the first of its layers and how many there are."""
        return tuple(
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
            for reason, names in self._names.items()
        )


@dataclass(frozen=True)
class _Priced:
    """One layer in one layout."""

    layer_class: str
    layout: Layout
    num_blocks: float
    num_weights: int
    cost: LinearCost


def advise(profile: DeviceProfile, workload: Workload) -> Advice:
    """Say which layouts pay on a device for the layers of a model.

    Layouts are those that the profile measured for the layer's shape, else those in which it could
    be lowered.  What the latency cost model cannot price is named in ``not_priced``.
    """
    latency, reasons = cost_model("latency"), _Reasons()
    dense = _dense_times(latency, profile, workload, reasons)
    priced = {name: _priced_layouts(latency, profile, workload.layer(name), reasons)
              for name in dense}  # fmt: skip
    rest = _rest(latency, profile, workload, reasons)
    if not dense:
        return Advice(profile.name, workload.model, None, (), None, (), reasons.told())
    total = sum(dense.values()) + rest
    helped = sum(ms for name, ms in dense.items() if priced[name])
    rows = _rows([item for items in priced.values() for item in items], total, profile)
    prunable = [item for item in workload.layers if item.prunable and item.name in dense]
    shares = {name: ms / total for name, ms in dense.items()}
    return Advice(
        profile=profile.name,
        model=workload.model,
        dense_ms=total,
        rows=rows,
        dense_only_share=1 - helped / total,
        granularities=judge_granularities(profile, prunable, shares),
        not_priced=reasons.told(),
    )


def _dense_times(
    latency: CostModel, profile: DeviceProfile, workload: Workload, reasons: _Reasons
) -> dict[str, float]:
    found: dict[str, float] = {}
    for layer in workload.layers:
        try:
            found[layer.name] = latency.dense_cost(layer, profile)
        except CostModelError as error:
            reasons.add(error, layer.name)
    return found


def _rest(
    latency: CostModel, profile: DeviceProfile, workload: Workload, reasons: _Reasons
) -> float:
    try:
        return latency.rest(workload, profile)
    except CostModelError as error:
        reasons.add(error, "what belongs to no layer")
        return 0.0


def _priced_layouts(
    latency: CostModel, profile: DeviceProfile, layer: LayerWorkload, reasons: _Reasons
) -> list[_Priced]:
    priced: list[_Priced] = []
    for layout in _layouts(profile, layer) if layer.prunable else ():
        try:
            cost = latency.linear_cost(layer, layout, profile)
        except CostModelError as error:
            reasons.add(error, layer.name)
            continue
        num_blocks = layout.num_whole_blocks(layer.shape.weight_shape)
        priced.append(
            _Priced(layer_class(layer.shape), layout, num_blocks, layer.num_weights, cost)
        )
    return priced


def _layouts(profile: DeviceProfile, layer: LayerWorkload) -> tuple[Layout, ...]:
    timing = profile.timing(layer.shape)
    if timing is None or not timing.sparse:
        return candidate_layouts(layer.shape)
    return tuple(Layout.parse(sparse.layout) for sparse in timing.sparse)


def _rows(
    priced: Sequence[_Priced], total: float, profile: DeviceProfile
) -> tuple[LayoutAdvice, ...]:
    groups: dict[tuple[str, str], list[_Priced]] = {}
    for item in priced:
        groups.setdefault((item.layer_class, str(item.layout)), []).append(item)
    rows = [_row(*key, items, total, profile) for key, items in groups.items()]
    share: dict[str, float] = {}
    for row in rows:
        share[row.layer_class] = max(share.get(row.layer_class, 0.0), row.dense_share)

    def order(row: LayoutAdvice) -> tuple[float, str, float]:
        return -share[row.layer_class], row.layer_class, -row.speedups[DENSITIES[-1]]

    return tuple(sorted(rows, key=order))


def _row(
    name: str, layout: str, items: Sequence[_Priced], total: float, profile: DeviceProfile
) -> LayoutAdvice:
    dense = sum(item.cost.dense for item in items)
    source = _source(item.cost.source for item in items)
    limits = [item.cost.break_even_density(item.num_blocks) for item in items]
    return LayoutAdvice(
        layer_class=name,
        layout=layout,
        num_layers=len(items),
        dense_share=dense / total,
        break_even=(min(limits), statistics.median(limits), max(limits)),
        speedups={density: dense / _sparse_time(items, density) for density in DENSITIES},
        kept={density: _density_kept(items, density) for density in DENSITIES},
        source=source,
        error_band=None if source == "measured" else profile.roofline.error_band,
    )


def _num_kept(item: _Priced, density: float) -> float:
    """Whole blocks nearest to a density, one at least; no more than there are."""
    return min(item.num_blocks, max(1.0, float(round(density * item.num_blocks))))


def _sparse_time(items: Sequence[_Priced], density: float) -> float:
    return sum(item.cost.sparse(_num_kept(item, density)) for item in items)


def _density_kept(items: Sequence[_Priced], density: float) -> float:
    kept = sum(item.num_weights * _num_kept(item, density) / item.num_blocks for item in items)
    return kept / sum(item.num_weights for item in items)


def _source(sources: Iterable[CostSource]) -> CostSource:
    return "measured" if all(source == "measured" for source in sources) else "estimated"
