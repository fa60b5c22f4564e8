"""What a profile says of its machine and packages."""

import importlib.metadata

import pytest

from spartan_planner.profiling.device import UNKNOWN, cpu_name_of, package_versions, this_device

ARM = """processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: {maker}
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: {part}

processor\t: 1
CPU implementer\t: 0x00
CPU part\t: 0x000
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: A CPU @ 2.0: fast\n", "A CPU @ 2.0: fast"),
        (ARM.format(maker="0x41", part="0xd0b"), "Arm Cortex-A76"),
        (ARM.format(maker="0x41", part="0xD40"), "Arm Neoverse-V1"),
        (ARM.format(maker="0x41", part="0xfff"), "Arm core, implementer 0x41, part 0xfff"),
        (ARM.format(maker="0x51", part="0xd0b"), "Arm core, implementer 0x51, part 0xd0b"),
        ("processor\t: 0\n", ""),
        ("", ""),
    ],
)
def test_name_of_the_processor(text, name):
    assert cpu_name_of(text) == name


def test_this_machine_is_named():
    device = this_device(1)
    assert device.cpu.strip()
    assert device.cpu != UNKNOWN


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_versions_hold_the_runtime_that_is_measured(runtime):
    versions = package_versions(runtime)
    assert versions[runtime] == importlib.metadata.version(runtime)
    assert versions["numpy"] == importlib.metadata.version("numpy")
