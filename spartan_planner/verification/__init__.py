"""Holding an exported file against its dense twin and against its promise; needs no torch."""

from spartan_planner.verification.measuring import run_batch, verify
from spartan_planner.verification.results import FileSize, LayerTime, Speedup, Verification
from spartan_planner.verification.settings import VerifySettings

__all__ = [
    "FileSize",
    "LayerTime",
    "Speedup",
    "Verification",
    "VerifySettings",
    "run_batch",
    "verify",
]
