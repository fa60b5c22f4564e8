"""Spartan Planner: ask for milliseconds on your device; get a pruned ONNX model that delivers.

Names are loaded when they are first used, so that what runs on a target device imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spartan_planner.bundled_profiles import load_profile
    from spartan_planner.export import export_onnx, prune_one_shot
    from spartan_planner.extraction import extract_workload
    from spartan_planner.plan_model import plan
    from spartan_planner.planning import Plan, Schedule, read_plan
    from spartan_planner.profiling import ProfileSettings, make_profile
    from spartan_planner.training import Sparsifier
    from spartan_planner.transport import hard_topk, soft_topk
    from spartan_planner.verification import VerifySettings, verify

__all__ = [
    "Plan",
    "ProfileSettings",
    "Schedule",
    "Sparsifier",
    "VerifySettings",
    "export_onnx",
    "extract_workload",
    "hard_topk",
    "load_profile",
    "make_profile",
    "plan",
    "prune_one_shot",
    "read_plan",
    "soft_topk",
    "verify",
]

_HOMES = {
    "Plan": "planning",
    "ProfileSettings": "profiling",
    "Schedule": "planning",
    "Sparsifier": "training",
    "VerifySettings": "verification",
    "export_onnx": "export",
    "extract_workload": "extraction",
    "hard_topk": "transport",
    "load_profile": "bundled_profiles",
    "make_profile": "profiling",
    "plan": "plan_model",
    "prune_one_shot": "export",
    "read_plan": "planning",
    "soft_topk": "transport",
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
