"""``inspect``: what each weight of a model does."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cost_models import Workload, write_document
from cost_models.workload import LayerWorkload
from spartan_planner.cli.options import (
    AsJson,
    Checkpoint,
    Inputs,
    InputShape,
    Model,
    Seed,
    print_json,
    require_output,
)
from spartan_planner.console import show
from spartan_planner.errors import ExportError, ModelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


def inspect_command(
    model: Model,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the workload (YAML) here.")
    ] = None,
    on_meta: Annotated[
        bool,
        typer.Option("--meta", help="Build the model without values: for models of any size."),
    ] = False,
    with_graph: Annotated[
        bool,
        typer.Option(
            "--graph/--no-graph",
            help="Put the model's ONNX graph, without its weights, into the file of --out: by it "
            "the whole model is timed on the target.",
        ),
    ] = True,
    with_channels: Annotated[
        bool,
        typer.Option(
            "--channels",
            help="Find the groups of channels and heads that can be removed: 'profile' measures "
            "layers at fewer channels too, and 'plan --layout channel' needs no torch.",
        ),
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Describe the weights of MODEL (or of an .onnx file): shapes, positions, multiply-adds."""
    if out:
        require_output(out, Path(model), inputs, checkpoint)
    if Path(model).suffix == ".onnx":
        _refuse_torch_options(inputs, checkpoint, on_meta, with_channels)
        workload = _of_onnx(Path(model), input_shape, with_graph)
    else:
        embed = with_graph and out is not None
        workload = _of_torch(
            model, input_shape, inputs, checkpoint, seed, on_meta, embed, with_channels
        )
    if out:
        write_document(out, workload)
    if as_json:
        print_json(workload_json(workload))
    else:
        _print_tables(workload)


def _refuse_torch_options(
    inputs: Path | None, checkpoint: Path | None, on_meta: bool, with_channels: bool
) -> None:
    given = {
        "--inputs": inputs,
        "--checkpoint": checkpoint,
        "--meta": on_meta,
        "--channels": with_channels,
    }
    names = [name for name, value in given.items() if value]
    if names:
        raise UsageError(
            f"{' and '.join(names)} cannot be used with an .onnx file, of which only the shapes "
            "are read; leave it out, or give --input-shape"
        )


def _of_onnx(path: Path, input_shape: str | None, with_graph: bool) -> Workload:
    from spartan_planner.input_shapes import parse_shapes
    from spartan_planner.onnx_workload import workload_of_onnx

    workload = workload_of_onnx(path, None if input_shape is None else parse_shapes(input_shape))
    return workload if with_graph else replace(workload, graph="")


def _of_torch(
    model: str,
    input_shape: str | None,
    inputs: Path | None,
    checkpoint: Path | None,
    seed: int,
    on_meta: bool,
    embed_graph: bool,
    with_channels: bool,
) -> Workload:
    from spartan_planner.cli.load import load
    from spartan_planner.extraction import extract_workload, inputs_for
    from spartan_planner.plan_model import with_channel_groups

    if on_meta and checkpoint:
        raise UsageError(
            "a model on the meta device has no values to load; leave out --checkpoint or --meta"
        )
    loaded, examples = load(model, input_shape, inputs, checkpoint, seed, on_meta)
    workload = extract_workload(loaded, examples, model)
    if with_channels:
        workload = with_channel_groups(workload, loaded, inputs_for(loaded, examples))
    if not embed_graph:
        return workload
    return replace(workload, graph=_graph_of(loaded, examples, on_meta, workload))


def _graph_of(
    model: "nn.Module", examples: "tuple[Tensor, ...]", on_meta: bool, workload: Workload
) -> str:
    """Return the model's graph as text; empty, with a notice, where there is none to be had."""
    from spartan_planner.export.embedded_graph import embedded_graph

    if on_meta:
        _notice("a model on the meta device is not exported")
        return ""
    try:
        return embedded_graph(model, examples, workload)
    except (ExportError, ModelError) as error:
        _notice(str(error))
        return ""


def _notice(reason: str) -> None:
    typer.echo(
        f"notice: {reason}; the workload is written without a graph, so the whole model cannot be "
        "timed and its other operations will be estimated",
        err=True,
    )


def _print_tables(workload: Workload) -> None:
    from spartan_planner.report import product_table, workload_table

    show(workload_table(workload))
    if workload.products:
        show(product_table(workload))
    show(f"{workload.num_parameters:,} parameters in all")
    for reason, layers in _by_reason(workload).items():
        show(f"not prunable, since {reason}: {', '.join(layers)}")
    if workload.unpriced:
        names = ", ".join(f"{item.op} x{item.num_calls}" for item in workload.unpriced)
        show(f"not priced, since no weight is consumed: {names}")


def _by_reason(workload: Workload) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for layer in workload.layers:
        if not layer.prunable:
            reasons.setdefault(layer.not_prunable_because, []).append(layer.name)
    return reasons


def workload_json(workload: Workload) -> dict[str, Any]:
    """Return what ``inspect --json`` prints."""
    return {
        "model": workload.model,
        "parameters": workload.num_parameters,
        "macs": workload.macs,
        "layers": [_layer_json(layer) for layer in workload.layers],
        "products": [
            {
                "op": item.op,
                "left_shape": list(item.left_shape),
                "right_shape": list(item.right_shape),
                "num_calls": item.num_calls,
                "macs": item.macs,
            }
            for item in workload.products
        ],
        "unpriced": [
            {
                "op": item.op,
                "num_calls": item.num_calls,
                "num_output_elements": item.num_output_elements,
            }
            for item in workload.unpriced
        ],
    }


def _layer_json(layer: LayerWorkload) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.shape.op,
        "weight_shape": list(layer.shape.weight_shape),
        "groups": layer.shape.groups,
        "positions": layer.positions,
        "macs": layer.macs,
        "prunable": layer.prunable,
        "not_prunable_because": layer.not_prunable_because,
        "input_shape": list(layer.shape.input_shape),
        "num_uses": layer.num_uses,
    }
