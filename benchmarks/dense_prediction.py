"""Predicted against measured latency of whole dense models, one process each.

For every torchvision model: inspect and export it here, profile it in a process of its own, then
time the exported file in another, beside the yardstick.  Run on a quiet machine:

    python benchmarks/dense_prediction.py resnet50 mobilenet_v2 vit_b_16
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from cost_models import DeviceProfile, Workload, cost_model, read_document, write_document
from spartan_planner.onnx_sessions import open_session, random_inputs, session_options
from spartan_planner.profiling import ProfileSettings, Yardstick, quiet_rounds, write_profile

RESULTS = Path(__file__).parent / "results"
MODELS = ("resnet50", "mobilenet_v2", "vit_b_16")
INPUT_SHAPE = (1, 3, 224, 224)
ALLOWED_ERROR = 0.10


def prepare(model: str, folder: Path) -> None:
    """Write ``workload.yaml``, with the graph of the whole, and ``dense.onnx``."""
    import onnx_ir as ir
    import torch

    from spartan_planner.export.embedded_graph import embedded_graph
    from spartan_planner.export.torch_to_onnx import torch_to_onnx
    from spartan_planner.extraction import extract_workload
    from spartan_planner.model_names import load_model

    torch.manual_seed(0)
    network = load_model(f"torchvision:{model}").eval()
    inputs = (torch.randn(INPUT_SHAPE),)
    workload = extract_workload(network, inputs, model)
    exported = torch_to_onnx(network, inputs)
    workload = dataclasses.replace(workload, graph=embedded_graph(network, inputs, workload))
    write_document(folder / "workload.yaml", workload)
    ir.save(exported, folder / "dense.onnx")


def profile(folder: Path, settings: ProfileSettings) -> None:
    """Write ``profile.yaml``."""
    workload = read_document(folder / "workload.yaml", Workload, "workload")
    write_profile(workload, folder / "profile.yaml", settings, tell=print)


def measure(folder: Path, num_rounds: int, num_threads: int) -> None:
    """Write ``times.json``: rows of the yardstick's and the model's time."""
    options = session_options(num_threads)
    session = open_session(folder / "dense.onnx", {}, options)
    inputs = random_inputs(session.inference, [INPUT_SHAPE])
    session = dataclasses.replace(session, inputs=inputs)
    yardstick = Yardstick(num_threads)
    rows = [(yardstick.time_ms(), session.burst_ms()) for _ in range(num_rounds)]
    (folder / "times.json").write_text(json.dumps(rows), "utf-8")


def compare(model: str, folder: Path) -> dict[str, object]:
    """Return predicted and measured latency at the device's speed while measuring."""
    workload = read_document(folder / "workload.yaml", Workload, "workload")
    device = read_document(folder / "profile.yaml", DeviceProfile, "profile")
    timing = device.model_timing(workload)
    provenance = device.measurement.provenance
    rows = np.array(json.loads((folder / "times.json").read_text("utf-8")))
    quiet = rows[quiet_rounds(rows[:, 0])]
    relative = quiet[:, 1] / quiet[:, 0]
    speed = float(np.median(quiet[:, 0])) / provenance.yardstick_ms
    latency = cost_model("latency")
    layers_ms = sum(latency.dense_cost(layer, device) for layer in workload.layers)
    predicted_ms = speed * (layers_ms + timing.rest_ms)
    measured_ms = float(np.median(relative) * np.median(quiet[:, 0]))
    return {
        "model": model,
        "predicted_ms": round(predicted_ms, 3),
        "measured_ms": round(measured_ms, 3),
        "predicted_over_measured": round(predicted_ms / measured_ms, 4),
        "layers_ms": round(speed * layers_ms, 3),
        "rest_ms": round(speed * timing.rest_ms, 3),
        "in_situ_factors": provenance.in_situ_factors,
        "num_shapes": len(device.layers),
        "roofline_leave_one_out_median_error": device.roofline.median_error,
        "roofline_error_band": list(device.roofline.error_band),
        "widest_half_width": provenance.widest_half_width,
        "device_speed_ratio": round(speed, 4),
        "yardstick_ms": provenance.yardstick_ms,
        "num_profile_rounds": provenance.num_rounds,
        "num_measured_rounds": len(rows),
        "profile_duration_s": provenance.duration_s,
        "load_average_before_profile": device.measurement.device.load_average,
        "cpu": device.measurement.device.cpu,
        "num_threads": device.measurement.device.num_threads,
        "runtime": f"{device.measurement.runtime.name} {device.measurement.runtime.version}",
        "date": provenance.date,
        "versions": provenance.versions,
    }


def table(results: list[dict[str, object]]) -> str:
    """Return the results as text."""
    first = results[0]
    lines = [
        f"{first['cpu']}, {first['num_threads']} thread(s), {first['runtime']}, {first['date']}",
        f"{'model':16} {'predicted ms':>12} {'measured ms':>12} {'ratio':>7} {'rest ms':>8}"
        f" {'left out':>9}  in-situ factors",
    ]
    for item in results:
        lines.append(
            f"{item['model']:16} {item['predicted_ms']:12.3f} {item['measured_ms']:12.3f} "
            f"{item['predicted_over_measured']:7.3f} {item['rest_ms']:8.3f} "
            f"{item['roofline_leave_one_out_median_error']:9.1%}  "
            + ", ".join(f"{name} {value:.3f}" for name, value in item["in_situ_factors"].items())
        )
    return "\n".join(lines) + "\n"


def run_step(step: str, model: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Run one step in a process of its own: what ran before leaves its traces in a process."""
    options = ["--max-seconds", arguments.max_seconds, "--rounds", arguments.rounds]
    options += ["--threads", arguments.threads, "--folder", folder, "--step", step]
    command = [sys.executable, __file__, model, *map(str, options)]
    subprocess.run(command, check=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--max-seconds", type=float, default=240.0, help="of each profile")
    parser.add_argument("--rounds", type=int, default=60, help="of the measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="folder in which to keep the profiles")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=("prepare", "profile", "measure"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    match arguments.step:
        case "prepare":
            prepare(arguments.models[0], arguments.folder)
        case "profile":
            settings = ProfileSettings(
                num_threads=arguments.threads, max_duration_s=arguments.max_seconds
            )
            profile(arguments.folder, settings)
        case "measure":
            measure(arguments.folder, arguments.rounds, arguments.threads)
        case None:
            results = []
            for model in arguments.models:
                with tempfile.TemporaryDirectory() as name:
                    for step in ("prepare", "profile", "measure"):
                        run_step(step, model, Path(name), arguments)
                    results.append(compare(model, Path(name)))
                    if arguments.keep:
                        arguments.keep.mkdir(parents=True, exist_ok=True)
                        for part in ("workload", "profile"):
                            kept = arguments.keep / f"{model}.{part}.yaml"
                            shutil.copy(Path(name) / f"{part}.yaml", kept)
                # What is known so far survives whatever happens to the next model.
                arguments.results.mkdir(parents=True, exist_ok=True)
                (arguments.results / "dense_prediction.json").write_text(
                    json.dumps(results, indent=2) + "\n", "utf-8"
                )
                text = table(results)
                (arguments.results / "dense_prediction.txt").write_text(text, "utf-8")
            print(text)


if __name__ == "__main__":
    main()
