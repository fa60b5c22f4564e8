"""Measuring a device: what the layers of a workload cost on it; needs no torch."""

from spartan_planner.profiling.profile import make_profile, write_profile
from spartan_planner.profiling.settings import ProfileSettings
from spartan_planner.profiling.yardstick import Yardstick, quiet_rounds

__all__ = ["ProfileSettings", "Yardstick", "make_profile", "quiet_rounds", "write_profile"]
