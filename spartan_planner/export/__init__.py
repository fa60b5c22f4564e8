"""From a trained torch model and its plan to an ONNX file that delivers what was planned."""

from spartan_planner.export.forms import Form, best_form
from spartan_planner.export.one_shot import prune_one_shot
from spartan_planner.export.onnx_export import ExportReport, export_onnx
from spartan_planner.export.saving import save_smaller
from spartan_planner.export.settings import ExportSettings
from spartan_planner.export.smaller import SmallerModel, smaller_model

__all__ = [
    "ExportReport",
    "ExportSettings",
    "Form",
    "SmallerModel",
    "best_form",
    "export_onnx",
    "prune_one_shot",
    "save_smaller",
    "smaller_model",
]
