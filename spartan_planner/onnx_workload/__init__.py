"""From an ONNX file to a workload: what each of its weights does; needs no torch."""

from spartan_planner.onnx_workload.uses import WeightUse
from spartan_planner.onnx_workload.workload import weight_uses_of_onnx, workload_of_onnx

__all__ = ["WeightUse", "weight_uses_of_onnx", "workload_of_onnx"]
