"""``export``: masked, sparse or lowered ONNX."""

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
    from torch import Tensor

    from spartan_planner.export import ExportReport

_FORMS = ("masked", "sparse", "lowered")


def export_command(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Write the ONNX file here; as OUT.safetensors, for plans that remove channels, "
            "the smaller torch model.",
        ),
    ],
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The plan; the dense model without one.")
    ] = None,
    checkpoint: Checkpoint = None,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            help="lowered: zero blocks are skipped (fast); masked: dense tensors with zeros, for "
            "any tool; sparse: only non-zeros are stored, a smaller file below a third of the "
            "weights, which ONNX Runtime makes dense again when it loads, so that it is no faster. "
            "By default lowered where every layout of the plan can be, else masked.",
        ),
    ] = None,
    one_shot: Annotated[
        bool,
        typer.Option(
            "--one-shot",
            help="Prune the checkpoint's weights to the plan at once, untrained; without a "
            "checkpoint that is done anyway.",
        ),
    ] = False,
    dynamic_batch: Annotated[
        bool,
        typer.Option(
            "--dynamic-batch/--fixed-batch",
            help="Leave the first dimension of all inputs open, or fix it.",
        ),
    ] = True,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32 or float16; the model's own by default."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="Version of ONNX's operators; 20 by default.")
    ] = None,
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Keep weights in OUT.data; by default only above 2 GB.",
        ),
    ] = None,
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
    if form is not None and form not in _FORMS:
        raise UsageError(f"form {form!r} is not known; use {', '.join(_FORMS[:-1])} or lowered")
    from spartan_planner.cli.load import load
    from spartan_planner.export import (
        ExportSettings,
        Form,
        export_onnx,
        prune_one_shot,
        save_smaller,
    )
    from spartan_planner.export.torch_to_onnx import OPSET
    from spartan_planner.planned_parameters import weights_note

    settings = ExportSettings(
        dtype, OPSET if opset is None else opset, dynamic_batch, external_data
    )
    made = read_plan(plan) if plan else None
    require_profile_of(made, profile)
    is_torch_model = out.suffix == ".safetensors"
    if is_torch_model:
        _require_channels(made, form)
    is_planned_shape = made is not None and input_shape is None and inputs is None
    if made and is_planned_shape:
        input_shape = ";".join(",".join(map(str, shape)) for shape in made.input_shapes)
    loaded, examples = load(model, input_shape, inputs, checkpoint, seed)
    if made and is_planned_shape:
        _require_types(made, examples)
    is_one_shot = made is not None and (one_shot or checkpoint is None)
    note = None
    if made and is_one_shot:
        note = weights_note(loaded, made)
        prune_one_shot(loaded, made)
    if made and is_torch_model:
        save_smaller(loaded, made, examples, out)
        _tell_saved(out, made, note, is_one_shot, as_json)
        return
    chosen = Form(form) if form else None
    report = export_onnx(loaded, made, examples, out, form=chosen, settings=settings)
    if as_json:
        notes = [*report.notes, *([note] if note else [])]
        print_json({**report_json(report), "notes": notes, "pruned_in_one_shot": is_one_shot})
        return
    if is_one_shot:
        weights = "the checkpoint's weights" if checkpoint else "no checkpoint: the initial weights"
        show(f"{weights} were pruned in one shot, by the plan's own choice of blocks")
    if note:
        show(f"notice: {note}")
    _show_report(report)


def _require_channels(plan: Plan | None, form: str | None) -> None:
    """Refuse a torch model where nothing of it would be smaller."""
    if plan is None or not plan.kept_units or form not in (None, "lowered"):
        raise UsageError(
            "a .safetensors file holds the smaller model that is left when channels go; give a "
            "plan that removes some (plan --layout channel) and no --form, or write to an .onnx "
            "file"
        )


def _tell_saved(out: Path, plan: Plan, note: str | None, is_one_shot: bool, as_json: bool) -> None:
    if as_json:
        told = {"path": str(out), "kept_units": plan.kept_units, "notes": [note] if note else []}
        print_json({**told, "pruned_in_one_shot": is_one_shot})
        return
    show(
        f"written to {out}: the smaller torch model; spartan_planner.load_pruned rebuilds it from "
        "a fresh model of the same class"
    )
    if note:
        show(f"notice: {note}")


def _require_types(plan: Plan, examples: "tuple[Tensor, ...]") -> None:
    """Refuse example inputs made up of the planned shapes in other types than planned."""
    planned = [item for item in plan.input_dtypes if item not in _FLOATING]
    made = [str(item.dtype).removeprefix("torch.") for item in examples]
    if planned != [item for item in made if item not in _FLOATING]:
        raise UsageError(
            f"the model's inputs are of type {', '.join(plan.input_dtypes)}; give --inputs"
        )


_FLOATING = ("float16", "bfloat16", "float32", "float64")


def report_json(report: "ExportReport") -> dict[str, Any]:
    """Return what ``export --json`` prints of a report."""
    return {
        "path": str(report.path),
        "files": [str(item) for item in report.files],
        "form": report.metadata.form,
        "num_bytes": report.num_bytes,
        "max_abs_error": report.max_abs_error,
        "num_lowered_layers": len(report.lowered),
        "density": report.metadata.density,
        "predicted": {cost.cost: cost.predicted for cost in report.metadata.costs},
        "notes": list(report.notes),
    }


def _show_report(report: "ExportReport") -> None:
    from spartan_planner.report import totals_table

    show(
        f"written to {report.path}: form {report.metadata.form}, {report.num_bytes / 1e6:.2f} MB, "
        f"{len(report.lowered)} layers lowered, density {report.metadata.density:.1%}, "
        f"differs from torch by at most {report.max_abs_error:.2g}"
    )
    for note in report.notes:
        show(f"notice: {note}")
    if report.metadata.costs:
        show(totals_table(report.metadata.costs))
