"""A profile as a plan knows it."""

import hashlib

from cost_models import DeviceProfile
from cost_models.documents import dump_document
from spartan_planner.errors import PlanError
from spartan_planner.planning.document import Plan, PlanMeasurement, PlanProfile


def profile_fingerprint(profile: DeviceProfile) -> str:
    """Return the SHA-256 of the profile's document."""
    return hashlib.sha256(dump_document(profile).encode()).hexdigest()


def require_profile(plan: Plan, profile: DeviceProfile) -> None:
    """Refuse a plan that was made with another profile.

    Raises:
        PlanError: naming both.
    """
    if plan.profile is None or plan.profile.fingerprint != profile_fingerprint(profile):
        made = "without a profile" if plan.profile is None else f"with {plan.profile.name!r}"
        raise PlanError(
            f"the plan was made {made}, not with this profile of {profile.name!r}, so its figures "
            "hold elsewhere; plan again with this profile"
        )


def plan_profile(profile: DeviceProfile) -> PlanProfile:
    """Return what a plan says about the profile that it was made with."""
    taken = profile.measurement
    measurement = None
    if taken is not None:
        measurement = PlanMeasurement(
            taken.device.cpu,
            f"{taken.runtime.name} {taken.runtime.version}",
            taken.device.num_threads,
            taken.provenance.yardstick_ms,
        )
    return PlanProfile(profile.name, profile_fingerprint(profile), measurement)
