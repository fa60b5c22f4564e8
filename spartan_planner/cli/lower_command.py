"""``lower``: make the zero blocks of any ONNX file pay; needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spartan_planner.cli.options import AsJson, print_json, require_output
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.progress import progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from spartan_planner.lowering.files import LoweredFile


def lower_command(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The pruned file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the lowered file here.")],
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="Choose forms by this profile of the device."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Choose forms by measuring them on this device.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads to measure with.")] = 1,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input-shape",
            help="Shapes to choose forms for and to compare at, such as 1,3,224,224; one per "
            "input, divided by semicolons. The file's own by default, an open batch taken for 1.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite an ONNX file so that the zero blocks of its weights save time.

    Works on files pruned by any tool: finds inputs that a layer never reads, outputs that are
    constant, and groups of outputs that read inputs of their own, and writes each layer in the
    form that pays, with standard operators only. The result is always compared with the input on
    random data. Without --profile or --measure a rule decides (docs/lowering.md).
    """
    require_output(out, source)
    if profile and measure:
        raise UsageError("--profile and --measure both choose the forms; give one of them")
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.input_shapes import parse_shapes
    from spartan_planner.lowering.files import lower_file
    from spartan_planner.lowering.measuring import Stopwatch

    with progress_bar("lowering", None) as advance:
        lowered = lower_file(
            source,
            out,
            input_shapes=parse_shapes(input_shape) if input_shape else None,
            profile=load_profile(profile) if profile else None,
            measure=Stopwatch(threads) if measure else None,
            advance=advance,
        )
    if as_json:
        print_json(lowering_json(lowered))
        return
    show(lowering_table(lowered))
    show(_summary(lowered))


def lowering_json(lowered: "LoweredFile") -> dict[str, Any]:
    """Return what ``lower --json`` prints."""
    return {
        "path": str(lowered.path),
        "num_bytes": {"before": lowered.num_bytes_before, "after": lowered.num_bytes_after},
        "max_abs_error": lowered.max_abs_error,
        "num_lowered": lowered.report.num_lowered,
        "removed_channels": lowered.report.removed.num_channels,
        "nodes": [
            {
                "name": item.name,
                "op": item.op,
                "weight_shape": list(item.weight_shape),
                "density": item.density,
                "form": item.form,
                "macs": {"before": item.num_macs_before, "after": item.num_macs_after},
                "speedup": item.speedup,
                "basis": item.basis,
                "why": item.why,
            }
            for item in lowered.report.nodes
        ],
    }


def lowering_table(lowered: "LoweredFile") -> "Table":
    """One row per layer: what was done and why."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"{lowered.path.name}", box=box.SIMPLE)
    for heading in ("layer", "operation", "form"):
        table.add_column(heading)
    for heading in ("density", "MMACs", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    for item in lowered.report.nodes:
        gone = lowered.report.removed.num_channels.get(item.name, 0)
        why = f"{gone} dead outputs removed; {item.why}" if gone else item.why
        table.add_row(
            item.name,
            f"{item.op} {'x'.join(map(str, item.weight_shape))}",
            item.form,
            f"{item.density:.1%}",
            f"{item.num_macs_after / 1e6:.3g} of {item.num_macs_before / 1e6:.3g}"
            if item.num_macs_before
            else "",
            f"{item.speedup:.2f}x ({item.basis})" if item.basis else "",
            why,
        )
    return table


def _summary(lowered: "LoweredFile") -> str:
    gone = sum(lowered.report.removed.num_channels.values())
    return (
        f"written to {lowered.path}: {lowered.num_bytes_after / 1e6:.2f} MB of "
        f"{lowered.num_bytes_before / 1e6:.2f}, {lowered.report.num_lowered} of "
        f"{len(lowered.report.nodes)} layers in another form, {gone} dead channels removed, "
        f"outputs differ by at most {lowered.max_abs_error:.2g}"
    )
