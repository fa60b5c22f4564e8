"""Dense against lowered ONNX files in stock ONNX Runtime, at equal density.

    python -m benchmarks.onnx_speed                       # ResNet-50 and ViT-B/16, 1 and 2 threads
    python -m benchmarks.onnx_speed vit_b_16 --density 0.25 --threads 1

Random weights are pruned in one shot in balanced tiles (of each group of outputs the inputs with
the largest sums of absolute weights stay) so that a given share of all prunable weights is kept.
The file is then lowered as `spartan-planner lower` does it, by rule or by measuring, and timed
against the dense file, both in turn in one process.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from spartan_planner.export.torch_to_onnx import torch_to_onnx
from spartan_planner.lowering.files import LoweredFile, lower_file
from spartan_planner.lowering.forms import STEP
from spartan_planner.lowering.measuring import Stopwatch
from spartan_planner.profiling.device import this_device
from spartan_planner.torchvision_operators import prepare_torchvision
from spartan_planner.verification import Verification, VerifySettings, verify

MODELS = ("resnet50", "vit_b_16")
RESULTS = Path(__file__).parent / "results"
CONVOLUTION_GROUP = 64
LINEAR_GROUP = 128


def random_model(name: str) -> nn.Module:
    """A torchvision model with random weights; a classifier of zeros would tell nothing."""
    prepare_torchvision()
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model.eval()


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Matrices and kernels of plain convolutions."""
    depthwise = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim in (2, 4) and name.endswith("weight") and name not in depthwise
    }


def group_size(weight: nn.Parameter) -> int:
    """Outputs per group, the last of which may have fewer; 0 for a weight that stays dense."""
    size = CONVOLUTION_GROUP if weight.ndim == 4 else LINEAR_GROUP
    return size if len(weight) >= size and weight.shape[1] >= 4 * STEP else 0


def num_kept_inputs(weight: nn.Parameter, density: float) -> int:
    """Inputs that each group keeps: whole steps, at least one."""
    return min(weight.shape[1], max(STEP, round(density * weight.shape[1] / STEP) * STEP))


def overall_density(weights: Sequence[nn.Parameter], density: float) -> float:
    """Share kept of all weights when each that can be pruned keeps about ``density``."""
    kept = [
        w.numel() * num_kept_inputs(w, density) / w.shape[1] if group_size(w) else w.numel()
        for w in weights
    ]
    return sum(kept) / sum(w.numel() for w in weights)


def density_for(weights: Sequence[nn.Parameter], overall: float) -> float:
    """The largest density per weight at which no more than ``overall`` is kept."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if overall_density(weights, middle) <= overall else (low, middle)
    return low


@torch.no_grad()
def prune(model: nn.Module, overall: float) -> float:
    """Prune in one shot; return the density reached, above the one asked where steps forbid it."""
    weights = list(prunable_weights(model).values())
    density = density_for(weights, overall)
    for weight in weights:
        size = group_size(weight)
        if not size:
            continue
        for group in weight.split(size):
            sums = group.abs().sum(dim=[axis for axis in range(group.ndim) if axis != 1])
            best = sums.topk(num_kept_inputs(weight, density)).indices
            kept = torch.zeros_like(sums).index_fill_(0, best, 1.0)
            group *= kept.reshape(1, -1, *[1] * (group.ndim - 2))
    return overall_density(weights, density)


def export(model: nn.Module, path: Path) -> None:
    ir.save(torch_to_onnx(model, (torch.randn(1, 3, 224, 224),)), path)


def lowered(name: str, folder: Path, density: float, measured: int) -> tuple[float, LoweredFile]:
    """Write the dense, masked and lowered files of a model."""
    model = random_model(name)
    export(model, folder / "dense.onnx")
    reached = prune(model, density)
    export(model, folder / "masked.onnx")
    measure = Stopwatch(measured) if measured else None
    return reached, lower_file(folder / "masked.onnx", folder / "lowered.onnx", measure=measure)


def result(
    name: str, reached: float, file: LoweredFile, times: Verification, measured: int
) -> dict[str, object]:
    assert times.speedup is not None
    device = this_device(times.num_threads)
    return {
        "model": name,
        "density": round(reached, 4),
        "num_threads": times.num_threads,
        "dense_ms": round(times.dense_ms or 0.0, 3),
        "lowered_ms": round(times.sparse_ms, 3),
        "speedup": round(times.speedup.measured, 3),
        "ci95": [round(figure, 3) for figure in times.speedup.ci95],
        "num_lowered": file.report.num_lowered,
        "forms_chosen": f"measured with {measured} thread(s)" if measured else "by rule",
        "max_abs_error": file.max_abs_error,
        "megabytes": [file.num_bytes_before / 1e6, file.num_bytes_after / 1e6],
        "num_rounds": times.num_rounds,
        "cpu": device.cpu,
        "load_average": device.load_average,
        "runtime": f"onnxruntime {onnxruntime.__version__}",
    }


def table(results: Sequence[dict[str, object]]) -> str:
    lines = [f"{results[0]['cpu']}, {results[0]['runtime']}"]
    lines.append(
        f"{'model':12} {'density':>8} {'threads':>7} {'dense ms':>9} {'lowered ms':>10} "
        f"{'speed-up':>8}  ci95           forms"
    )
    for item in results:
        low, high = item["ci95"]  # type: ignore[misc]
        lines.append(
            f"{item['model']:12} {item['density']:8.1%} {item['num_threads']:7} "
            f"{item['dense_ms']:9.2f} {item['lowered_ms']:10.2f} {item['speedup']:7.2f}x  "
            f"{low:.2f} to {high:.2f}   {item['forms_chosen']}"
        )
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--density", type=float, default=0.1, help="share of prunable weights kept")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--measure", action="store_true", help="choose forms by measuring them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    results = []
    for name in arguments.models:
        for threads in arguments.threads:
            with tempfile.TemporaryDirectory() as made:
                folder, measured = Path(made), threads if arguments.measure else 0
                reached, file = lowered(name, folder, arguments.density, measured)
                settings = VerifySettings(arguments.rounds, threads)
                times = verify(file.path, dense=folder / "dense.onnx", settings=settings)
            results.append(result(name, reached, file, times, measured))
            # What is known so far survives whatever happens to the next model.
            arguments.results.mkdir(parents=True, exist_ok=True)
            (arguments.results / "onnx_speed.json").write_text(
                json.dumps(results, indent=2) + "\n", "utf-8"
            )
            (arguments.results / "onnx_speed.txt").write_text(table(results), "utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
