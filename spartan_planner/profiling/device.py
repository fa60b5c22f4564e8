"""Facts about this machine and the packages that measure it."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

from cost_models import Device, Runtime
from spartan_planner.onnx_sessions import PROVIDER

UNKNOWN = "unknown"
_CPU_INFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_PACKAGES = ("spartan-planner", "onnxruntime", "onnx", "onnx-ir", "numpy", "scipy")


def this_device(num_threads: int) -> Device:
    """Describe the machine that this process runs on."""
    return Device(
        cpu=_cpu_name(),
        architecture=platform.machine(),
        num_cores=_num_usable_cores(),
        num_threads=num_threads,
        governor=_first_line(_GOVERNOR),
        load_average=round(psutil.getloadavg()[0], 2),
    )


def this_runtime() -> Runtime:
    """Describe the runtime that measures."""
    return Runtime("onnxruntime", importlib.metadata.version("onnxruntime"), PROVIDER)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part in a measurement."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = UNKNOWN
    return versions


def _num_usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or UNKNOWN


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return UNKNOWN
