"""Tables that people read; needs no torch."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from cost_models import DeviceProfile, Workload
from spartan_planner.advice import DENSITIES, Advice, LayoutAdvice
from spartan_planner.granularities import WORTHWHILE
from spartan_planner.planning import Plan, PlanBudget, PlanGroup
from spartan_planner.planning.compare import DevicePlan
from spartan_planner.planning.sweep import Curve
from spartan_planner.trial_rounds import Trial

_SCALES = {"FLOPs": (1e6, "MFLOPs"), "parameters": (1e6, "M parameters"), "bytes": (1e6, "MB")}


_JOULES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ"))


def amount(figure: float, unit: str) -> str:
    """Return a figure with its unit, scaled for reading: ``3.79 ms``, ``512 MFLOPs``."""
    scale, name = _readable(unit, figure)
    return f"{figure / scale:.4g} {name}"


def _readable(unit: str, figure: float) -> tuple[float, str]:
    """What to divide a figure by for reading, and what the unit is called then."""
    if unit == "J":
        return next((step for step in _JOULES if figure >= step[0]), _JOULES[-1])
    return _SCALES.get(unit, (1.0, unit))


def workload_table(workload: Workload) -> Table:
    """One row per layer: operation, positions, weights and multiply-adds."""
    table = Table(title=f"Workload of {workload.model}")
    for heading in ("layer", "operation"):
        table.add_column(heading, no_wrap=True)
    for heading in ("positions", "weights", "MMACs"):
        table.add_column(heading, justify="right")
    for layer in workload.layers:
        table.add_row(
            layer.name,
            layer.shape.label(),
            str(layer.positions),
            f"{layer.num_weights:,}",
            f"{layer.macs / 1e6:.3f}",
        )
    table.add_section()
    if workload.products:
        products = f"{workload.product_macs / 1e6:.3f}"
        table.add_row("products without a weight", "", "", "", products)
    weights = sum(layer.num_weights for layer in workload.layers)
    table.add_row("total", "", "", f"{weights:,}", f"{workload.macs / 1e6:.3f}")
    return table


def product_table(workload: Workload) -> Table:
    """One row per distinct product without a weight: its factors, calls and multiply-adds."""
    table = Table(title="Products without a weight: counted, never pruned")
    for heading in ("operation", "left", "right"):
        table.add_column(heading, no_wrap=True)
    for heading in ("calls", "MMACs"):
        table.add_column(heading, justify="right")
    for item in workload.products:
        left, right = ("x".join(map(str, shape)) for shape in (item.left_shape, item.right_shape))
        table.add_row(item.op, left, right, str(item.num_calls), f"{item.macs / 1e6:.3f}")
    return table


def profile_table(profile: DeviceProfile) -> Table:
    """One row per layer shape and layout: fitted times and break-even densities."""
    table = Table(title=f"Profile {profile.name} ({profile.category})")
    table.add_column("layer shape", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    for heading in ("dense ms", "fixed ms", "ms per block", "pays below", "fit error"):
        table.add_column(heading, justify="right")
    for timing in profile.layers:
        if not timing.sparse:
            table.add_row(timing.shape.label(), "dense", f"{timing.dense_ms:.4f}")
        for sparse in timing.sparse:
            share = timing.break_even_density(sparse)
            table.add_row(
                timing.shape.label(),
                sparse.layout,
                f"{timing.dense_ms:.4f}",
                f"{sparse.fixed_ms:.4f}",
                f"{sparse.per_block_ms:.5f}",
                f"{share:.0%} density",
                f"{sparse.max_fit_error:.1%}" if len(sparse.samples) > 2 else "-",
            )
    return table


def advice_table(advice: Advice) -> Table:
    """One row per class of layers and layout: from where on it pays, and how much."""
    table = Table(
        title=f"What pays on {advice.profile} for {advice.model}",
        caption=_caption(advice),
        box=box.SIMPLE,
    )
    table.add_column("layers", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    densities = [f"{density:.0%}" for density in DENSITIES]
    for heading in ("share", "pays below", *densities):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in advice.rows:
        least, median, greatest = row.break_even
        mark = "" if row.source == "measured" else "~"
        table.add_row(
            f"{row.num_layers} {row.layer_class}",
            row.layout,
            f"{row.dense_share:.0%}",
            f"{median:.0%} ({100 * least:.0f}-{100 * greatest:.0f})",
            *(f"{mark}{row.speedups[density]:.2f}x{_kept(row, density)}" for density in DENSITIES),
        )
    if advice.dense_only_share:
        table.add_row("all else", "dense", f"{advice.dense_only_share:.0%}")
    return table


def _caption(advice: Advice) -> str:
    bands = {row.error_band for row in advice.rows if row.error_band}
    start = f"speed-ups at densities; below {WORTHWHILE:g}x nothing is gained"
    return start + "".join(
        f"; ~ is estimated: expect {low:.2g} to {high:.2g} times the time" for low, high in bands
    )


def _kept(row: LayoutAdvice, density: float) -> str:
    """The density really kept where whole blocks do not come to the one asked."""
    kept = f"{row.kept[density]:.0%}"
    return "" if kept == f"{density:.0%}" else f" ({kept})"


def plan_table(plan: Plan) -> Table:
    """One row per layer: layout, densities, dense and predicted cost of the budgeted quantity."""
    table = Table(title=f"Plan for {plan.model}")
    table.add_column("layer", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    for heading in ("density", "kept blocks"):
        table.add_column(heading, justify="right")
    scales = {}
    for budget in plan.budgets:
        scales[budget.cost], unit = _energy_scale(budget)
        table.add_column(f"dense {unit}", justify="right")
        table.add_column(f"predicted {unit}", justify="right")
    lowered = plan.lowered_layers()
    for layer in plan.layers:
        figures = [
            f"{figure / scales[budget.cost]:.4g}"
            for budget in plan.budgets
            for figure in (
                layer.whole_cost(budget.cost),
                layer.predicted(budget.cost, lowered=layer.name in lowered),
            )
        ]
        blocks = f"{layer.num_kept_blocks}/{layer.num_blocks}" if layer.is_sparse else "all"
        treatment = plan.treatment(layer)
        table.add_row(layer.name, treatment, f"{layer.whole_density:.1%}", blocks, *figures)
    if any(budget.rest for budget in plan.budgets):
        rests = [f"{b.rest / scales[b.cost]:.4g}" for b in plan.budgets for _ in range(2)]
        table.add_row("(rest)", "", "", "", *rests)
    return table


def group_table(plan: Plan) -> Table:
    """One row per group of channels: what stays of it, and why by price no more or less does."""
    table = Table(
        title="Channels that can only go together",
        caption="worth: value over cost at the plan's price, of the last units that stay and of "
        "the next ones, that go: what is worth more than 1 pays",
    )
    table.add_column("group", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for heading in ("units", "kept", "worth of last", "worth of next"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for group in plan.groups:
        worths = (group.worth_of_last, group.worth_of_next)
        figures = ["-" if worth is None else f"{worth:.2f}" for worth in worths]
        counts = str(group.num_units), str(group.num_kept_units)
        table.add_row(group.name, group.kind, *counts, *figures, _why(group))
    return table


def _why(group: PlanGroup) -> str:
    if group.fixed_because:
        return f"stays: {group.fixed_because}"
    if not group.is_shortened:
        return "stays: all of it is worth its cost"
    if group.worth_of_last is None:
        return f"no fewer than {group.num_kept_units} may stay"
    return "goes as far as others are worth more"


def _energy_scale(budget: PlanBudget) -> tuple[float, str]:
    """One unit for all layers: joules of a whole model are far too large for them."""
    return _readable("J", budget.dense) if budget.unit == "J" else (1.0, budget.unit)


def totals_table(costs: tuple[PlanBudget, ...]) -> Table:
    """One row per cost of the whole model: dense, asked, predicted."""
    table = Table(title="Whole model")
    table.add_column("cost")
    for heading in ("dense", "asked", "predicted", "share"):
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(
            cost.cost,
            amount(cost.dense, cost.unit),
            amount(cost.asked, cost.unit) if cost.asked is not None else "-",
            amount(cost.predicted, cost.unit),
            f"{cost.predicted / cost.dense:.1%}" if cost.dense else "-",
        )
    return table


def sweep_table(curve: Curve) -> Table:
    """Ten points of a curve: asked and predicted costs, what is kept and what is retained."""
    table = Table(title=f"{curve.model}: {len(curve.points)} budgets")
    units = {item.cost: item.unit for item in curve.dense}
    asked = [item.cost for item in curve.points[0].costs if item.asked is not None]
    for cost in asked:
        table.add_column(f"{cost} asked", justify="right")
    for cost in units:
        table.add_column(cost if cost not in asked else f"{cost} predicted", justify="right")
    table.add_column("density", justify="right")
    table.add_column("retained", justify="right")
    last = len(curve.points) - 1
    for index in sorted({round(last * tenth / 10) for tenth in range(11)}):
        point = curve.points[index]
        table.add_row(
            *(amount(c.asked, units[c.cost]) for c in point.costs if c.asked is not None),
            *(amount(c.predicted, units[c.cost]) for c in point.costs),
            f"{point.density:.1%}",
            f"{point.retained_value:.1%}",
        )
    return table


def comparison_table(found: Sequence[DevicePlan]) -> Table:
    """One row per device and cost: dense, asked, predicted, and what it costs on the others."""
    table = Table(title=f"Plans for {found[0].plan.model}")
    table.add_column("plan for", no_wrap=True)
    table.add_column("cost")
    for heading in ("dense", "asked", "predicted", "retained", "density"):
        table.add_column(heading, justify="right")
    for item in found:
        table.add_column(f"on {item.profile}", justify="right")
    for item in found:
        for total in item.plan.all_costs:
            if total.asked is None and total.cost != "latency":
                continue
            elsewhere = [
                total.predicted if other is item else item.elsewhere[other.profile][total.cost]
                for other in found
            ]
            table.add_row(
                item.profile,
                total.cost,
                amount(total.dense, total.unit),
                "-" if total.asked is None else amount(total.asked, total.unit),
                amount(total.predicted, total.unit),
                f"{item.plan.retained_value:.1%}",
                f"{item.density:.1%}",
                *("-" if f is None else amount(f, total.unit) for f in elsewhere),
            )
    return table


def trial_table(trial: Trial) -> Table:
    """One row per round: latency asked, predicted and measured, and how sure that is."""
    table = Table(
        title=f"Trial of the plan for {trial.plan.model}",
        caption="ms at the device's speed while profiling; 'device': the yardstick's time now over "
        "then; 'scatter': of the measured latency",
    )
    headings = ("round", "dense predicted", "measured", "off by", "asked", "predicted", "measured")
    for heading in (*headings, "off by", "scatter", "device"):
        table.add_column(heading, justify="right")
    for number, item in enumerate(trial.rounds, 1):
        table.add_row(
            str(number),
            f"{item.predicted_dense_ms:.3f}",
            f"{item.measured_dense_ms:.3f}",
            f"{item.dense_error:+.1%}",
            f"{item.asked_ms:.3f}" if item.asked_ms is not None else "-",
            f"{item.predicted_ms:.3f}",
            f"{item.measured_ms:.3f}",
            f"{item.error:+.1%}",
            f"{item.scatter:.1%}",
            f"{item.device_speed_ratio:.2f}x",
        )
    return table
