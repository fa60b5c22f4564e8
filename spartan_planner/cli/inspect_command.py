"""``inspect``: what each weight of a model does."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cost_models import Workload, write_document
from spartan_planner.cli.options import (
    AsJson,
    Checkpoint,
    Inputs,
    InputShape,
    Model,
    Seed,
    print_json,
    require_output_folder,
)
from spartan_planner.console import show


def inspect_command(
    model: Model,
    input_shape: InputShape = None,
    inputs: Inputs = None,
    checkpoint: Checkpoint = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the workload (YAML) here.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Describe the weights of MODEL: shapes, positions, multiply-adds."""
    from spartan_planner.cli.load import load
    from spartan_planner.extraction import extract_workload

    if out:
        require_output_folder(out)
    loaded, examples = load(model, input_shape, inputs, checkpoint, seed)
    workload = extract_workload(loaded, examples, model)
    if out:
        write_document(out, workload)
    if as_json:
        print_json(workload_json(workload))
        return
    from spartan_planner.report import workload_table

    show(workload_table(workload))
    show(f"{workload.num_parameters:,} parameters in all")
    if workload.unpriced:
        names = ", ".join(f"{item.op} x{item.num_calls}" for item in workload.unpriced)
        show(f"not priced, since no weight is consumed: {names}")


def workload_json(workload: Workload) -> dict[str, Any]:
    """Return what ``inspect --json`` prints."""
    return {
        "model": workload.model,
        "parameters": workload.num_parameters,
        "macs": workload.macs,
        "layers": [
            {
                "name": layer.name,
                "op": layer.shape.op,
                "weight_shape": list(layer.shape.weight_shape),
                "groups": layer.shape.groups,
                "positions": layer.positions,
                "macs": layer.macs,
                "prunable": layer.prunable,
                "input_shape": list(layer.shape.input_shape),
                "num_uses": layer.num_uses,
            }
            for layer in workload.layers
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
