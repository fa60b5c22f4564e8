"""A name for the input shapes that a model was run at.

The fingerprint of a model holds its parameters only: the same model at another batch or resolution
has the same.  The shapes of its layers' uses tell these apart.
"""

import hashlib

from cost_models.workload import Workload


def shapes_digest(workload: Workload) -> str:
    """Return the SHA-256 over the shapes of all uses of all layers, whatever their order."""
    lines = sorted(f"{count} x {shape!r}" for shape, count in workload.shape_counts().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
