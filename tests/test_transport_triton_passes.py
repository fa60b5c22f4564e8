"""The choice of the Triton kernels, and their cases in a process of its own."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spartan_planner.errors import TransportError
from spartan_planner.transport import backend, use_triton

CASES = Path(__file__).with_name("triton_cases.py")


def test_kernels():
    pytest.importorskip("triton")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    # Triton 3.9 warns when it compiles and this is not set; either value will do here.
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_cpu_tensors_are_read_by_torch_unless_asked():
    values = torch.rand(3)
    assert not backend.reads_fused(values)
    pytest.importorskip("triton")
    use_triton(True)
    try:
        assert backend.reads_fused(values)
        assert not backend.reads_fused(values.double())
    finally:
        use_triton(None)


def test_without_triton_torch_reads_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    with pytest.raises(TransportError, match="Triton is not installed"):
        use_triton(True)
    backend._is_triton_found.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not backend._is_triton_found()
    backend._is_triton_found.cache_clear()
    assert "install triton" in caplog.text
