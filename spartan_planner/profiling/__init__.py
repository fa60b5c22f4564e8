"""Measuring a device: what the layers of a workload cost on it; needs no torch."""

from spartan_planner.profiling.profile import ProfileSettings, make_profile
from spartan_planner.profiling.yardstick import Yardstick, quiet_rounds

__all__ = ["ProfileSettings", "Yardstick", "make_profile", "quiet_rounds"]
