"""Tables of what verifying found; needs no torch."""

from rich.table import Table

from spartan_planner.verification import FileSize, Verification

_PROMISE = {True: "kept", False: "missed", None: "none: no latency was asked for"}


def verification_table(result: Verification) -> Table:
    """Latency asked, predicted and measured, the speed-up, agreement and sizes."""
    table = Table(title=f"Verification, {result.runtime}, {result.num_threads} thread(s)")
    table.add_column("figure")
    table.add_column("value", justify="right")
    rows = (
        ("dense, measured", result.dense_ms),
        ("asked", result.asked_ms),
        ("predicted", result.predicted_ms),
        ("sparse, measured", result.sparse_ms),
    )
    for name, figure in rows:
        if figure is not None:
            table.add_row(name, f"{figure:.3f} ms")
    if result.speedup:
        low, high = result.speedup.ci95
        if result.speedup.predicted:
            table.add_row("speed-up, predicted", f"{result.speedup.predicted:.2f}x")
        measured = f"{result.speedup.measured:.2f}x (95 % interval {low:.2f} to {high:.2f})"
        table.add_row("speed-up, measured", measured)
    if result.asked_ms is not None:
        slower = f"{result.device_speed_ratio:.2f}x the profile's time"
        table.add_row("device now, by the yardstick", slower)
    for name, size in (("dense", result.dense_size), ("sparse", result.sparse_size)):
        if size:
            table.add_row(f"size, {name}", _size(size))
    if result.max_abs_error is not None:
        table.add_row("greatest difference of outputs", f"{result.max_abs_error:.2g}")
    table.add_row("promise", _PROMISE[result.ok])
    for note in result.notes:
        table.add_row("note", note)
    return table


def layers_table(result: Verification, only_missed: bool) -> Table:
    """One row per layer: measured inside the whole by the runtime's profiler, and predicted."""
    title = "Layers that take longer than predicted" if only_missed else "Layers"
    table = Table(title=title, caption="inside the whole, by the runtime's own profiler")
    table.add_column("layer", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    for heading in ("measured ms", "predicted ms", "off by"):
        table.add_column(heading, justify="right")
    for item in result.missed_layers if only_missed else result.layers:
        predicted = item.predicted_ms
        table.add_row(
            item.name,
            item.layout,
            f"{item.measured_ms:.4f}",
            "-" if predicted is None else f"{predicted:.4f}",
            f"{item.measured_ms / predicted - 1:+.0%}" if predicted else "-",
        )
    return table


def _size(size: FileSize) -> str:
    whole = f"{size.num_bytes / 1e6:.2f} MB"
    if size.num_compressed_bytes is None:
        return whole
    return f"{whole}, {size.num_compressed_bytes / 1e6:.2f} MB compressed"
