"""From a torch model to a workload: every weight found through the operation that consumes it."""

from spartan_planner.extraction.extract import extract_workload, inputs_for, model_fingerprint

__all__ = ["extract_workload", "inputs_for", "model_fingerprint"]
