"""Spartan Planner: ask for milliseconds on your device; get a pruned ONNX model that delivers.

Names are loaded when they are first used, so that what runs on a target device imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.channels import load_pruned, save_pruned
    from spartan_planner.export import export_onnx, prune_one_shot, smaller_model
    from spartan_planner.extraction import extract_workload
    from spartan_planner.lowering.files import lower_file
    from spartan_planner.plan_model import plan
    from spartan_planner.planning import Plan, Schedule, read_plan
    from spartan_planner.profiling import ProfileSettings, make_profile
    from spartan_planner.training import (
        Recording,
        Sparsifier,
        TrainingSettings,
        load_data,
        train,
    )
    from spartan_planner.training.recipe_run import run_recipe
    from spartan_planner.transport import hard_topk, soft_topk
    from spartan_planner.verification import VerifySettings, verify

__all__ = [
    "Plan",
    "ProfileSettings",
    "Recording",
    "Schedule",
    "Sparsifier",
    "TrainingSettings",
    "VerifySettings",
    "export_onnx",
    "extract_workload",
    "hard_topk",
    "load_data",
    "load_profile",
    "load_pruned",
    "lower_file",
    "make_profile",
    "plan",
    "prune_one_shot",
    "read_plan",
    "run_recipe",
    "save_pruned",
    "smaller_model",
    "soft_topk",
    "train",
    "verify",
]

_HOMES = {
    "Plan": "planning",
    "ProfileSettings": "profiling",
    "Recording": "training",
    "Schedule": "planning",
    "Sparsifier": "training",
    "TrainingSettings": "training",
    "VerifySettings": "verification",
    "export_onnx": "export",
    "extract_workload": "extraction",
    "hard_topk": "transport",
    "load_data": "training",
    "load_profile": "bundled_profiles",
    "load_pruned": "channels",
    "lower_file": "lowering.files",
    "make_profile": "profiling",
    "plan": "plan_model",
    "prune_one_shot": "export",
    "read_plan": "planning",
    "run_recipe": "training.recipe_run",
    "save_pruned": "channels",
    "smaller_model": "export",
    "soft_topk": "transport",
    "train": "training",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
