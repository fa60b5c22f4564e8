"""The profile behind a file, corrected by what verifying measured."""

from cost_models import DeviceProfile
from spartan_planner.errors import PlanError, ProfileError, UsageError
from spartan_planner.export_metadata import ExportMetadata
from spartan_planner.planning import profile_fingerprint
from spartan_planner.planning.document import DENSE
from spartan_planner.recalibration import Factors, recalibrated_by
from spartan_planner.verification.results import Verification


def recalibrated_profile(
    profile: DeviceProfile, metadata: ExportMetadata | None, found: Verification
) -> DeviceProfile:
    """Return the profile that would have predicted what was measured.

    What a profile predicts of a file is ``f D + s S``: the dense part ``D`` and the lowered part
    ``S``, multiplied by two factors.  ``f`` is measured over predicted latency of the dense file;
    ``s`` makes the sum what the file took.  The profile's name then says that it was recalibrated.

    Args:
        profile: behind the file's promise.
        metadata: of the file.
        found: what was measured, with the dense file.

    Raises:
        UsageError: no dense file was measured, or the file makes no promise for this runtime.
        PlanError: the promise was made by another profile.
        ProfileError: the lowered layers would have to take no time at all.
    """
    promise = metadata.latency if metadata else None
    if metadata is None or promise is None or found.predicted_ms is None:
        raise UsageError(
            "no profile can be recalibrated: the file promises no latency on this runtime"
        )
    if found.dense_ms is None or found.speedup is None:
        raise UsageError("a profile is recalibrated by a dense file as well; give --dense")
    if metadata.profile is None or metadata.profile.fingerprint != profile_fingerprint(profile):
        raise PlanError(
            f"the file's promise was not made with this profile of {profile.name!r}; give the "
            "profile that the plan was made with"
        )
    dense_ms = found.dense_ms / found.device_speed_ratio
    dense_factor = dense_ms / promise.dense
    lowered_ms = sum(
        layer.predicted_ms or 0.0 for layer in metadata.layers if layer.layout != DENSE
    )
    if lowered_ms == 0:
        return recalibrated_by(profile, Factors(dense_factor, None))
    left_ms = dense_ms / found.speedup.measured - dense_factor * (promise.predicted - lowered_ms)
    if left_ms <= 0:
        raise ProfileError(
            f"the file took {found.sparse_ms:.4g} ms, no more than its dense layers alone should, "
            "so nothing is left for the lowered ones; profile this model on this device again"
        )
    return recalibrated_by(profile, Factors(dense_factor, left_ms / lowered_ms))
