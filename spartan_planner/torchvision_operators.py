"""Imports torchvision beside a torch build for which its compiled operators do not load."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""Operators that torchvision refers to while it is imported."""

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_UNDECLARED = "operator torchvision::"
_UNLOADED = ("torchvision::", "Couldn't load custom C++ ops")
"""What torch and torchvision say of an operator that has no schema, and of one without a kernel."""
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
        if _UNDECLARED not in str(error):
            raise
        _forget_half_imported()
        _declare_missing()
        importlib.import_module("torchvision")
        # Most models call none of them; the others are told so when they run (operators_hint).
        _log.info("torchvision's compiled operators do not load beside torch %s", torch.__version__)


def with_torchvision(action: Callable[[], _Result]) -> _Result:
    """Return what ``action`` returns; where it fails to import torchvision, help and repeat it.

    Importing torchvision takes as long as importing torch, so this is not done in advance.
    """
    try:
        return action()
    except Exception as error:
        if not any(_UNDECLARED in str(item) for item in _chain(error)):
            raise
    prepare_torchvision()
    return action()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: libraries wrap what went wrong inside."""
    seen: set[int] = set()
    item: BaseException | None = error
    while item is not None and id(item) not in seen:
        seen.add(id(item))
        yield item
        item = item.__cause__ or item.__context__


def operators_hint(reason: str) -> str:
    """Return what to do about a model that failed for an operator of torchvision, else nothing."""
    if not any(text in reason for text in _UNLOADED):
        return ""
    return (
        "it calls compiled operators of torchvision, which do not load beside torch "
        f"{torch.__version__}: install the torchvision that is built for this torch"
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
