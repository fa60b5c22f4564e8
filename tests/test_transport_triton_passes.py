"""The Triton kernels under Triton's interpreter, against the torch operations."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# The interpreter is chosen when a kernel is defined, hence a process of its own.
SCRIPT = """
import torch
from spartan_planner import transport
generator = torch.Generator().manual_seed(11)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for beta in (0.1, 10.0, 300.0):
        values = [torch.rand(n, generator=generator).to(dtype) for n in (70_001, 9_000, 1)]
        found = []
        for enabled in (False, True):
            transport.use_triton(enabled)
            found.append(transport.solve_soft_topk(values, (1.0, 3.0, 2.0), 20_000.0, beta))
        plain, fused = found
        assert fused.relative_budget_error <= 1e-6, fused
        assert abs(plain.price - fused.price) <= 2e-6 * (1 + abs(plain.price)) * max(1, 1 / beta)
        for a, b in zip(plain.masks, fused.masks):
            assert a.dtype == b.dtype
            rounding = 1e-4 if dtype == torch.float32 else 1e-2
            torch.testing.assert_close(a, b, rtol=rounding, atol=1e-6)
"""


def test_kernels_agree_with_torch_operations():
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
