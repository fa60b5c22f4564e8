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
_DEVICE_TREE_MODEL = Path("/sys/firmware/devicetree/base/model")
_ARM = "0x41"
_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd4f": "Neoverse-V2",
}
"""Arm's own designs by the part number of their main identification register."""
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


def package_versions(runtime: str = "onnxruntime") -> dict[str, str]:
    """Versions of Python and of the packages that take part in a measurement.

    Args:
        runtime: name of the runtime that is measured, which is that of its package.
    """
    versions = {"python": platform.python_version()}
    for name in dict.fromkeys((*_PACKAGES, runtime)):
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
    named = cpu_name_of(_text(_CPU_INFO)) or _text(_DEVICE_TREE_MODEL).strip("\0 \n")
    return named or platform.processor() or platform.machine() or UNKNOWN


def cpu_name_of(cpu_info: str) -> str:
    """Return the processor's name from the text of ``/proc/cpuinfo``; empty where it has none.

    Linux on Arm states no name but the numbers of the core's maker and design.
    """
    fields: dict[str, str] = {}
    for line in cpu_info.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if fields.get("model name"):
        return fields["model name"]
    maker, part = fields.get("CPU implementer"), fields.get("CPU part")
    if not maker or not part:
        return ""
    if maker.lower() == _ARM and part.lower() in _ARM_CORES:
        return f"Arm {_ARM_CORES[part.lower()]}"
    return f"Arm core, implementer {maker}, part {part}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return UNKNOWN
