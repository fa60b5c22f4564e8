"""Measured layer times of a sparse CPU runtime against the planner's fit.

    python -m benchmarks.layer_timings FOLDER [--out benchmarks/results/layer_timings]

FOLDER holds ``resnet50_pruning_perf.json`` and ``resnet50_perf.json`` (SparseML's test fixtures,
Apache License 2.0): times of ResNet-50 and of its layers at batch 1 and 0, 40, 80 and 99 %
unstructured sparsity.  Each file becomes a device profile: the dense form is the time at 0 %, the
sparse form the fitted line through the other three.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.resnet50 import resnet50_workload
from cost_models import (
    Device,
    DeviceFacts,
    DeviceProfile,
    Fact,
    LayerShape,
    LayerTiming,
    LayerWorkload,
    Measurement,
    ModelTiming,
    Provenance,
    Roofline,
    RooflineClass,
    Runtime,
    Sample,
    SparseTiming,
    Workload,
    write_document,
)
from cost_models.layer_work import layer_work
from cost_models.shapes_digest import shapes_digest
from spartan_planner.profiling.fit import fit_linear

SPARSITIES = (0.0, 0.4, 0.8, 0.99)
LAYOUT = "element"
UNKNOWN = "unknown"
REFERENCE = "SparseML test fixture {}: the most that any layer of the table reached"

Times = dict[float, float]
"""Milliseconds by sparsity."""


@dataclass(frozen=True)
class Table:
    """A fixture: times of the whole model, and of every layer in the workload's order."""

    name: str
    num_cores: int
    num_runs: int
    model_ms: Times
    layers_ms: tuple[Times, ...]


@dataclass(frozen=True)
class Row:
    """A layer at one sparsity: what the table says and what the fit says."""

    layer: str
    shape: str
    sparsity: float
    table_ms: float
    fitted_ms: float
    error: float
    break_even_density: float


def read_pruning_table(path: Path) -> Table:
    """Read the table that is keyed by the weights' names."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    layers = [_milliseconds(item["value"].items()) for item in plain["layer_results"].values()]
    attributes = plain["attributes"]
    return Table(
        path.name,
        attributes["num_cores"],
        attributes["iterations_per_check"],
        _milliseconds(plain["value"].items()),
        tuple(layers),
    )


def read_node_table(path: Path) -> Table:
    """Read the table that is keyed by the runtime's nodes, in execution order.

    The first convolution is fused with its pooling and listed twice; what is no convolution and no
    product (shuffles, pooling, softmax) belongs to no layer.
    """
    plain = json.loads(path.read_text(encoding="utf-8"))
    nodes = {item["name"]: item for item in plain["results"]}
    names = [n for n in nodes if n.startswith(("conv_pool", "convolution", "gevm"))]
    model = _medians(plain["results_model"])
    num_runs = len(plain["results_model"]["sparse_measurements"][0][1])
    return Table(path.name, 0, num_runs, model, tuple(_medians(nodes[name]) for name in names))


def _milliseconds(items: Sequence[tuple[str, float]]) -> Times:
    return dict(zip(SPARSITIES, (1e3 * seconds for _, seconds in items), strict=True))


def _medians(node: dict[str, list[tuple[float, list[float]]]]) -> Times:
    # The first level is the baseline, whatever sparsity the file gives it.
    medians = [(str(s), statistics.median(times)) for s, times in node["sparse_measurements"]]
    return _milliseconds(medians)


def profile_of(table: Table, workload: Workload) -> DeviceProfile:
    """Return the table as a profile: one timing per distinct shape, by medians."""
    by_shape: dict[LayerShape, list[Times]] = {}
    for layer, times in zip(workload.layers, table.layers_ms, strict=True):
        by_shape.setdefault(layer.shape, []).append(times)
    timings = tuple(_timing(shape, times) for shape, times in by_shape.items())
    errors = [abs(row.error) for row in compare(table, timings, workload)]
    facts = _facts(table, workload)
    return DeviceProfile(
        schema_version=2,
        name=f"layer table {table.name.removesuffix('.json')}",
        category="x86 CPU",
        facts=facts,
        roofline=_roofline(facts, timings),
        measurement=Measurement(
            Device(UNKNOWN, UNKNOWN, max(1, table.num_cores), max(1, table.num_cores), UNKNOWN, 0),
            Runtime("DeepSparse", UNKNOWN, "CPU"),
            Provenance(
                "measured",
                UNKNOWN,
                {},
                table.num_runs,
                1e-3 * table.num_runs * sum(table.model_ms.values()),
                table.model_ms[0.0],
                statistics.median(errors),
                max(errors),
            ),
        ),
        layers=timings,
        models=(_model_timing(table, workload),),
    )


def _timing(shape: LayerShape, times: Sequence[Times]) -> LayerTiming:
    medians = {level: statistics.median(item[level] for item in times) for level in SPARSITIES}
    dense = [item[0.0] for item in times]
    counts = [round((1 - level) * shape.num_weights) for level in SPARSITIES[1:]]
    sparse_ms = [medians[level] for level in SPARSITIES[1:]]
    fit = fit_linear(np.array(counts, float), np.array(sparse_ms))
    samples = tuple(Sample(n, ms) for n, ms in zip(counts, sparse_ms, strict=True))
    error = float(np.max(np.abs(fit.relative_errors)))
    spread = (max(dense) - min(dense)) / 2 / medians[0.0]
    timing = SparseTiming(LAYOUT, fit.fixed, fit.per_block, error, samples)
    return LayerTiming(shape, medians[0.0], spread, (timing,))


def _model_timing(table: Table, workload: Workload) -> ModelTiming:
    whole, layers = table.model_ms[0.0], sum(times[0.0] for times in table.layers_ms)
    return ModelTiming(
        workload.model,
        workload.fingerprint,
        whole,
        layers,
        max(0.0, whole - layers),
        shapes_digest(workload),
    )


def _facts(table: Table, workload: Workload) -> DeviceFacts:
    """Lower bounds: the table says nothing about its device but what its layers reached."""

    def most(figures: Iterator[float]) -> Fact:
        return Fact(max(figures), "measured", REFERENCE.format(table.name))

    dense = [
        (layer_work(layer.shape), times[0.0])
        for layer, times in zip(workload.layers, table.layers_ms, strict=True)
    ]
    least = min(ms for times in table.layers_ms for ms in times.values())
    return DeviceFacts(
        peak_gflop_per_s={"float32": most(work.num_flops / ms / 1e6 for work, ms in dense)},
        bandwidth_gb_per_s=most(work.num_bytes / ms / 1e6 for work, ms in dense),
        launch_overhead_us=Fact(
            1e3 * least, "measured", f"SparseML test fixture {table.name}: the shortest layer time"
        ),
    )


def _roofline(facts: DeviceFacts, timings: Sequence[LayerTiming]) -> Roofline:
    """One class for all layers at the median share of the peak, and how far it is off."""
    peak = facts.peak_gflop_per_s["float32"].value
    rates = [layer_work(t.shape).num_flops / t.dense_ms / 1e6 for t in timings]
    share = statistics.median(rates) / peak
    ratios = [share * peak / rate for rate in rates]
    band = (min(1.0, *ratios), max(1.0, *ratios))
    return Roofline((RooflineClass("any", share, 1.0, 0.0),), False, band)


def compare(table: Table, timings: Sequence[LayerTiming], workload: Workload) -> list[Row]:
    """Return the fit beside the table, for every layer and level."""
    by_shape = {timing.shape: timing for timing in timings}
    return [
        _row(layer, by_shape[layer.shape], level, times[level])
        for layer, times in zip(workload.layers, table.layers_ms, strict=True)
        for level in SPARSITIES
    ]


def _row(layer: LayerWorkload, timing: LayerTiming, level: float, table_ms: float) -> Row:
    (sparse,) = timing.sparse
    kept = (1 - level) * layer.num_weights
    fitted = timing.linear_cost(sparse).sparse(kept) if level else timing.dense_ms
    density = timing.break_even_density(sparse)
    error = fitted / table_ms - 1
    return Row(layer.name, layer.shape.label(), level, table_ms, fitted, error, density)


def summary(table: Table, profile: DeviceProfile, rows: Sequence[Row]) -> dict[str, object]:
    """Return the figures that the text quotes."""
    densities = [row.break_even_density for row in rows if row.sparsity == 0]
    errors = {
        str(level): _quantiles([abs(row.error) for row in rows if row.sparsity == level])
        for level in SPARSITIES
    }
    layers = {str(level): sum(times[level] for times in table.layers_ms) for level in SPARSITIES}
    slower = sum(times[0.4] > times[0.0] for times in table.layers_ms)
    predicted = {level: _fitted_sum(rows, level) for level in map(str, SPARSITIES)}
    return {
        "model_ms": {str(level): ms for level, ms in table.model_ms.items()},
        "sum_of_layers_ms": layers,
        "sum_of_fitted_ms": predicted,
        "num_layers": len(table.layers_ms),
        "num_layers_slower_at_40_than_dense": slower,
        "num_distinct_shapes": len(profile.layers),
        "abs_error": errors,
        "abs_error_of_a_line_through_dense_too": _quantiles(_errors_with_dense(table)),
        "break_even_density": _quantiles(densities),
        "num_layers_never_paying": sum(density == 0 for density in densities),
        "num_layers_always_paying": sum(density == 1 for density in densities),
    }


def _errors_with_dense(table: Table) -> list[float]:
    """Errors of one line per layer through all four points, the dense one as one of them."""
    kept = np.array([1 - level for level in SPARSITIES])
    errors = [
        np.abs(fit_linear(kept, np.array([times[level] for level in SPARSITIES])).relative_errors)
        for times in table.layers_ms
    ]
    return [float(error) for layer in errors for error in layer]


def _fitted_sum(rows: Sequence[Row], level: str) -> float:
    return sum(row.fitted_ms for row in rows if str(row.sparsity) == level)


def _quantiles(figures: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(figures),
        "p90": float(np.quantile(figures, 0.9)),
        "min": min(figures),
        "max": max(figures),
    }


def text_of(results: Sequence[tuple[Table, dict[str, object], list[Row]]]) -> str:
    """Return the table that people read."""
    lines: list[str] = []
    for table, figures, rows in results:
        lines += [table.name, "=" * len(table.name), json.dumps(figures, indent=1), ""]
        head = f"{'layer':28} {'shape':36} " + " ".join(f"{s:>21.0%}" for s in SPARSITIES)
        lines += [head + "  pays below", f"{'':65} " + "   table  fitted error" * len(SPARSITIES)]
        for start in range(0, len(rows), len(SPARSITIES)):
            levels = rows[start : start + len(SPARSITIES)]
            cells = " ".join(
                f"{r.table_ms:7.4f} {r.fitted_ms:7.4f} {r.error:+5.0%}" for r in levels
            )
            first = levels[0]
            density = f"{first.break_even_density:6.1%}"
            lines.append(f"{first.layer:28} {first.shape:36} {cells}  {density}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/layer_timings"))
    parser.add_argument("--profiles", type=Path, help="also write the profiles (YAML) here")
    arguments = parser.parse_args()
    workload = resnet50_workload()
    tables = [
        read_pruning_table(arguments.folder / "resnet50_pruning_perf.json"),
        read_node_table(arguments.folder / "resnet50_perf.json"),
    ]
    results = []
    for table in tables:
        profile = profile_of(table, workload)
        rows = compare(table, profile.layers, workload)
        results.append((table, summary(table, profile, rows), rows))
        if arguments.profiles:
            arguments.profiles.mkdir(parents=True, exist_ok=True)
            write_document(arguments.profiles / f"{Path(table.name).stem}.yaml", profile)
    plain = [
        {"table": table.name, **figures, "rows": [asdict(row) for row in rows]}
        for table, figures, rows in results
    ]
    arguments.out.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")
    arguments.out.with_suffix(".txt").write_text(text_of(results) + "\n")
    print(text_of(results))


if __name__ == "__main__":
    main()
