"""From a trained torch model and its plan to an ONNX file that delivers what was planned."""

from spartan_planner.export.one_shot import prune_one_shot
from spartan_planner.export.onnx_export import ExportReport, Form, export_onnx

__all__ = ["ExportReport", "Form", "export_onnx", "prune_one_shot"]
