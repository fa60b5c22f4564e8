"""What ``plan`` reads: a workload and its weights, from torch, ONNX or a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cost_models import Workload
from spartan_planner.errors import UsageError
from spartan_planner.planning import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Source:
    """A model to plan for.

    Attributes:
        workload: what its weights do.
        weights: the weights.
        input_shapes: of its example inputs; empty where nobody knows.
        input_dtypes: their element types.
        runnable: the torch model in memory and its example inputs, where there is one.
    """

    workload: Workload
    weights: Weights
    input_shapes: tuple[tuple[int, ...], ...] = ()
    input_dtypes: tuple[str, ...] = ()
    runnable: "tuple[nn.Module, tuple[Tensor, ...]] | None" = None


def read_source(
    model: str,
    input_shape: str | None,
    inputs: Path | None,
    checkpoint: Path | None,
    on_meta: bool,
    seed: int,
    with_channels: bool = False,
) -> Source:
    """Read a model by what its name ends with: ``.onnx``, ``.yaml`` (a workload), or torch's.

    Raises:
        SpartanPlannerError: an option that the kind of model cannot use, or something that cannot
            be read.
    """
    suffix = Path(model).suffix
    if suffix == ".onnx":
        _refuse(
            "an .onnx file", {"--inputs": inputs, "--checkpoint": checkpoint, "--meta": on_meta}
        )
        return _of_onnx(Path(model), input_shape)
    if suffix in (".yaml", ".yml"):
        _refuse("a workload", {"--inputs": inputs, "--input-shape": input_shape, "--meta": on_meta})
        return _of_workload(Path(model), checkpoint)
    if on_meta:
        if with_channels:
            raise UsageError(
                "channel groups are found by comparing a smaller model with the masked one, which "
                "--meta has no values for; leave it out, or plan a workload made by 'inspect "
                "--channels'"
            )
        return _of_meta(model, input_shape, inputs, checkpoint, seed)
    return _of_torch(model, input_shape, inputs, checkpoint, seed, with_channels)


def _refuse(kind: str, options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{' and '.join(given)} cannot be used with {kind}; leave it out")


def _of_onnx(path: Path, input_shape: str | None) -> Source:
    from spartan_planner.input_shapes import parse_shapes
    from spartan_planner.onnx_workload import workload_of_onnx
    from spartan_planner.planning import OnnxWeights

    shapes: Sequence[tuple[int, ...]] | None = parse_shapes(input_shape) if input_shape else None
    workload = workload_of_onnx(path, shapes)
    return Source(workload, OnnxWeights.of(path, shapes), tuple(shapes or ()))


def _of_workload(path: Path, checkpoint: Path | None) -> Source:
    from cost_models import read_document

    if checkpoint is None:
        raise UsageError(
            "a workload holds no weights; give --checkpoint with a .safetensors file or the folder "
            "of a checkpoint"
        )
    return Source(read_document(path, Workload, "workload"), _streamed(checkpoint))


def _streamed(checkpoint: Path) -> Weights:
    from spartan_planner.planning import SafetensorsWeights, read_index

    return SafetensorsWeights(read_index(checkpoint))


def _of_meta(
    model: str, input_shape: str | None, inputs: Path | None, checkpoint: Path | None, seed: int
) -> Source:
    from spartan_planner.cli.load import load
    from spartan_planner.extraction import extract_workload
    from spartan_planner.plan_model import described

    if checkpoint is None:
        raise UsageError(
            "a model on the meta device has no weights; give --checkpoint with a .safetensors file "
            "or the folder of a checkpoint"
        )
    loaded, examples = load(model, input_shape, inputs, None, seed, on_meta=True)
    workload = extract_workload(loaded, examples, model)
    return Source(workload, _streamed(checkpoint), *described(examples))


def _of_torch(
    model: str,
    input_shape: str | None,
    inputs: Path | None,
    checkpoint: Path | None,
    seed: int,
    with_channels: bool,
) -> Source:
    from spartan_planner.cli.load import load
    from spartan_planner.extraction import extract_workload, inputs_for
    from spartan_planner.plan_model import TorchWeights, described, with_channel_groups

    loaded, examples = load(model, input_shape, inputs, checkpoint, seed)
    suited = inputs_for(loaded, examples)
    workload = extract_workload(loaded, suited, model)
    if with_channels:
        workload = with_channel_groups(workload, loaded, suited)
    weights = TorchWeights(dict(loaded.named_parameters()))
    return Source(workload, weights, *described(suited), (loaded, suited))
