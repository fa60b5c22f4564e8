"""The whole path on real input: profile, plan, train, export, verify.

Every step calls the function behind the command of the same name.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor, nn

from cost_models import DeviceProfile, Workload, write_document
from cost_models.documents import write_json
from spartan_planner.checkpoints import save_weights
from spartan_planner.console import result_console
from spartan_planner.digits import INPUT_SHAPE, MODEL_NAME
from spartan_planner.export import ExportReport, export_onnx
from spartan_planner.export.embedded_graph import embedded_graph
from spartan_planner.extraction import extract_workload
from spartan_planner.model_names import load_model, parse_input_shape
from spartan_planner.plan_model import plan
from spartan_planner.planning import Plan
from spartan_planner.profiling import ProfileSettings, make_profile
from spartan_planner.progress import progress_bar
from spartan_planner.report import (
    plan_table,
    profile_table,
    totals_table,
)
from spartan_planner.training import (
    DataSplit,
    TrainingResult,
    TrainingSettings,
    load_data,
    num_steps,
    train,
)
from spartan_planner.verification import Verification, VerifySettings, run_batch, verify
from spartan_planner.verification_report import verification_table

SUMMARY = "summary.json"
BUDGET = {"latency": "50%"}
MAX_ACCURACY_LOSS = 0.015
"""Share of test images: 5 of 360."""


@dataclass(frozen=True)
class QuickstartSettings:
    """How each step is done.

    Attributes:
        dense_training, sparse_training: how to train.
        profile: how to measure this device.
        verify: how to measure the exported file.
    """

    dense_training: TrainingSettings
    sparse_training: TrainingSettings
    profile: ProfileSettings
    verify: VerifySettings


FIVE_MINUTES = QuickstartSettings(
    dense_training=TrainingSettings(num_epochs=5, learning_rate=0.05),
    sparse_training=TrainingSettings(num_epochs=5, learning_rate=0.05),
    profile=ProfileSettings(num_rounds=100, max_duration_s=60, max_half_width=0.01),
    verify=VerifySettings(num_rounds=150, tolerance=0.15),
)
"""Settings that stay within five minutes on two cores."""


@dataclass(frozen=True)
class Summary:
    """What the quickstart came to; :meth:`to_json` is written to ``summary.json``."""

    verification: Verification
    dense_accuracy: float
    sparse_accuracy: float
    density: float
    max_abs_error: float

    @property
    def ok(self) -> bool:
        """Whether the exported file keeps its promise, as fast and as accurate as it should be."""
        return (
            self.verification.ok is True
            and self.dense_accuracy - self.sparse_accuracy <= MAX_ACCURACY_LOSS
        )

    def to_json(self) -> dict[str, object]:
        """Return the figures as plain data; latencies at the device's speed while verifying."""
        result = self.verification
        assert result.speedup is not None
        return {
            "latency_ms": {
                "dense": result.dense_ms,
                "asked": result.asked_ms,
                "predicted": result.predicted_ms,
                "measured": result.sparse_ms,
            },
            "speedup": {
                "predicted": result.speedup.predicted,
                "measured": result.speedup.measured,
                "ci95": list(result.speedup.ci95),
            },
            "accuracy": {"dense": self.dense_accuracy, "sparse": self.sparse_accuracy},
            "density": self.density,
            "max_abs_error": self.max_abs_error,
            "device_speed_ratio": result.device_speed_ratio,
        }


def run_quickstart(
    folder: Path,
    settings: QuickstartSettings = FIVE_MINUTES,
    data: DataSplit | None = None,
    quiet: bool = False,
) -> Summary:
    """Run the whole path and write everything into a folder.

    Args:
        folder: made when it does not exist.
        settings: how each step is done.
        data: images ``[N, 1, 8, 8]`` with labels; scikit-learn's digits by default.
        quiet: print nothing but progress bars.
    """
    (folder / SUMMARY).unlink(missing_ok=True)
    console = result_console(quiet)
    data = data or load_data("digits")
    example_inputs = parse_input_shape(",".join(map(str, INPUT_SHAPE)))
    model = load_model(MODEL_NAME)

    console.rule("1/5 profile: what this CPU's milliseconds buy")
    workload = extract_workload(model, example_inputs, MODEL_NAME)
    workload = replace(workload, graph=embedded_graph(model, example_inputs, workload))
    profile = _profile(workload, folder, settings.profile, console)

    console.rule("baseline: the dense network that a user would bring")
    dense = _train(model, data, settings.dense_training, None)
    save_weights(model, folder / "dense.safetensors")
    export_onnx(model, None, example_inputs, folder / "dense.onnx")
    console.print(f"dense test accuracy {dense.accuracy:.2%}")

    console.rule("2/5 plan: half the latency of the dense network")
    made = plan(model, example_inputs, budgets=BUDGET, profile=profile, model_name=MODEL_NAME)
    write_document(folder / "plan.yaml", made)
    console.print(plan_table(made), totals_table((*made.budgets, *made.totals)))

    console.rule("3/5 train: to the plan, by Spartan")
    sparse = _train(model, data, settings.sparse_training, made)
    save_weights(model, folder / "sparse.safetensors")
    console.print(f"sparse test accuracy {sparse.accuracy:.2%}, dense {dense.accuracy:.2%}")

    console.rule("4/5 export: zero blocks lowered, checked against torch")
    report = export_onnx(
        model, made, example_inputs, folder / "model.onnx", check_inputs=[(_images(data),)]
    )
    _print_export(console, report)

    console.rule("5/5 verify: dense and sparse, interleaved")
    result = _verify(folder, made, settings.verify)
    summary = Summary(
        verification=result,
        dense_accuracy=_onnx_accuracy(folder / "dense.onnx", data),
        sparse_accuracy=_onnx_accuracy(folder / "model.onnx", data),
        density=report.metadata.density,
        max_abs_error=report.max_abs_error,
    )
    write_json(folder / SUMMARY, summary.to_json())
    console.print(verification_table(result))
    console.print(
        f"accuracy dense {summary.dense_accuracy:.2%}, sparse {summary.sparse_accuracy:.2%}"
    )
    console.print(f"summary written to {folder / SUMMARY}")
    return summary


def _train(
    model: nn.Module, data: DataSplit, settings: TrainingSettings, made: Plan | None
) -> TrainingResult:
    name = "training to the plan" if made else "training dense"
    with progress_bar(name, num_steps(data, settings)) as advance:
        return train(model, data, settings, made, advance)


def _profile(
    workload: Workload, folder: Path, settings: ProfileSettings, console: Console
) -> DeviceProfile:
    with progress_bar("profiling", settings.num_rounds) as advance:
        profile = make_profile(workload, settings, advance)
    write_document(folder / "workload.yaml", workload)
    write_document(folder / "profile.yaml", profile)
    console.print(profile_table(profile))
    return profile


def _verify(folder: Path, made: Plan, settings: VerifySettings) -> Verification:
    with progress_bar("verifying", settings.num_rounds) as advance:
        return verify(
            folder / "model.onnx",
            made,
            dense=folder / "dense.onnx",
            settings=settings,
            advance=advance,
        )


def _print_export(console: Console, report: ExportReport) -> None:
    console.print(
        f"{len(report.lowered)} layers lowered, density {report.metadata.density:.1%}, "
        f"{report.num_bytes / 1e6:.1f} MB; differs from torch by at most "
        f"{report.max_abs_error:.2g} on all test images"
    )


def _images(data: DataSplit) -> Tensor:
    images: Tensor = data.test[:][0]
    return images


def _onnx_accuracy(path: Path, data: DataSplit) -> float:
    images, labels = data.test[:]
    predicted = run_batch(path, images.numpy()).argmax(axis=1)
    return float(np.mean(predicted == labels.numpy()))
