"""torchvision beside a torch for which its compiled operators may not load."""

import subprocess
import sys

import pytest

from spartan_planner.torchvision_operators import operators_hint, with_torchvision

CODE = """
import logging, sys, warnings
logging.basicConfig(format="%(message)s")
import torch
from spartan_planner.torchvision_operators import prepare_torchvision
prepare_torchvision()
prepare_torchvision()
import torchvision
images = torch.zeros(1, 3, 32, 32)
print(torchvision.models.resnet18().eval()(images).shape[1])
print(hasattr(torch.ops.torchvision, "nms"), torchvision.extension._has_ops())
"""


def test_classification_models_run_with_and_without_compiled_operators():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=200
    )
    classes, facts = done.stdout.splitlines()
    declared, _ = facts.split()
    assert (classes, declared) == ("1000", "True")
    # Nothing is said of what most models never need.
    assert done.stderr == ""


USERS_MODULE = """
import sys
from spartan_planner.torchvision_operators import with_torchvision
calls = []
def build():
    calls.append(1)
    try:
        import torchvision
    except RuntimeError as error:
        raise ModuleNotFoundError("as transformers words it") from error
    return torchvision
module = with_torchvision(build)
print(len(calls), module.extension._has_ops(), module.models.resnet18.__name__)
"""


def test_what_fails_to_import_torchvision_is_helped_and_repeated():
    done = subprocess.run(
        [sys.executable, "-c", USERS_MODULE],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    num_calls, has_operators, name = done.stdout.split()
    assert name == "resnet18"
    assert num_calls == ("1" if has_operators == "True" else "2")


def test_other_failures_are_not_repeated():
    calls = []

    def fail():
        calls.append(1)
        raise RuntimeError("operator of another kind")

    with pytest.raises(RuntimeError, match="another kind"):
        with_torchvision(fail)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("reason", "is_told"),
    [
        ("Could not run 'torchvision::nms' with arguments", True),
        ("Couldn't load custom C++ ops. This can happen", True),
        ("expected scalar type Float", False),
    ],
)
def test_a_model_that_calls_missing_operators_is_told_what_to_install(reason, is_told):
    assert ("install the torchvision" in operators_hint(reason)) == is_told
