"""The same weights make the same plan, bit by bit: across runs, threads and sources."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GOLDEN = TESTS / "data" / "golden_plan.yaml"


def made(source: str, num_threads: int) -> str:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(num_threads),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "golden_plan.py"), source],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("source", "num_threads"),
    [
        ("arrays", 1),
        ("arrays", 2),
        ("safetensors", 2),
        ("onnx", 1),
        ("onnx-external", 1),
    ],
)
def test_the_plan_is_the_golden_one(source, num_threads):
    assert made(source, num_threads) == GOLDEN.read_text(encoding="utf-8")
