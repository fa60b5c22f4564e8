"""Packages of models, imported as the planner imports them."""

import warnings
from typing import Any

from spartan_planner.model_names import import_models as import_checked


def import_models(package: str) -> Any:
    with warnings.catch_warnings():
        # Some of their modules use what torch and Python have announced to drop.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return import_checked(package)
