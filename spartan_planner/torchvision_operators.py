"""Imports torchvision beside a torch build for which its compiled operators do not load."""

import importlib
import importlib.util
import logging
import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""Operators that torchvision refers to while it is imported."""

_log = logging.getLogger(__name__)
_declared: list[torch.library.Library] = []
"""Kept for good: a library that is collected takes its operators with it."""


def prepare_torchvision() -> None:
    """Make sure that torchvision, where it is installed, can be imported.

    The torchvision of the package index is compiled for one build of torch; beside another (such
    as the CPU-only build) its import ends with ``operator torchvision::nms does not exist``.
    Classification models use none of its operators, so the missing ones are declared, without
    kernels, and the import is repeated.  A model that calls one of them fails when it runs.

    Raises:
        Exception: whatever else goes wrong while torchvision is imported.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _forget_half_imported()
        _declare_missing()
        importlib.import_module("torchvision")
        _log.warning(
            "torchvision's compiled operators do not load beside torch %s; models that call them "
            "(detection, deformable convolution) do not run",
            torch.__version__,
        )


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_missing() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
