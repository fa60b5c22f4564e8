"""``export``: masked or lowered ONNX."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spartan_planner.cli.options import (
    AsJson,
    Checkpoint,
    Inputs,
    InputShape,
    Model,
    Seed,
    print_json,
    require_output,
    require_profile_of,
)
from spartan_planner.console import show
from spartan_planner.errors import UsageError
from spartan_planner.planning import Plan, read_plan

if TYPE_CHECKING:
    from spartan_planner.export import ExportReport


def export_command(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the ONNX file here.")],
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan; the dense model without one.")
    ] = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    form: Annotated[
        str,
        typer.Option(
            "--form",
            help="lowered: zero blocks are skipped (fast); masked: dense tensors with zeros.",
        ),
    ] = "lowered",
    one_shot: Annotated[
        bool,
        typer.Option(
            "--one-shot", help="Prune the checkpoint's weights to the plan at once, untrained."
        ),
    ] = False,
    seed: Seed = 0,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="The profile that the plan must have been made with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export MODEL as ONNX, checked against torch.

    With a plan and no checkpoint the model's initial weights are pruned in one shot.
    """
    require_output(out, plan, checkpoint, inputs)
    if form not in ("lowered", "masked"):
        raise UsageError(f"form {form!r} is not known; use lowered or masked")
    from spartan_planner.cli.load import load
    from spartan_planner.export import Form, export_onnx, prune_one_shot

    made = read_plan(plan) if plan else None
    require_profile_of(made, profile)
    if made and input_shape is None and inputs is None:
        input_shape = _planned_input_shape(made)
    loaded, examples = load(model, input_shape, inputs, checkpoint, seed)
    is_one_shot = made is not None and (one_shot or checkpoint is None)
    if made and is_one_shot:
        prune_one_shot(loaded, made)
    report = export_onnx(loaded, made, examples, out, form=Form(form))
    if as_json:
        print_json({**report_json(report), "pruned_in_one_shot": is_one_shot})
        return
    if is_one_shot and checkpoint is None:
        show("no checkpoint was given: the initial weights were pruned in one shot")
    _show_report(report)


def _planned_input_shape(plan: Plan) -> str:
    if set(plan.input_dtypes) - {"float16", "bfloat16", "float32", "float64"}:
        raise UsageError(
            f"the model's inputs are of type {', '.join(plan.input_dtypes)}; give --inputs"
        )
    return ";".join(",".join(map(str, shape)) for shape in plan.input_shapes)


def report_json(report: "ExportReport") -> dict[str, Any]:
    """Return what ``export --json`` prints of a report."""
    return {
        "path": str(report.path),
        "num_bytes": report.num_bytes,
        "max_abs_error": report.max_abs_error,
        "num_lowered_layers": len(report.lowered),
        "density": report.metadata.density,
        "predicted": {cost.cost: cost.predicted for cost in report.metadata.costs},
    }


def _show_report(report: "ExportReport") -> None:
    from spartan_planner.report import totals_table

    show(
        f"written to {report.path}: {report.num_bytes / 1e6:.2f} MB, "
        f"{len(report.lowered)} layers lowered, density {report.metadata.density:.1%}, "
        f"differs from torch by at most {report.max_abs_error:.2g}"
    )
    if report.metadata.costs:
        show(totals_table(report.metadata.costs))
