"""Facts of this machine, really measured; no test asserts how fast anything is."""

import math

import onnxruntime
import pytest

from cost_models import DeviceFacts
from cost_models.documents import dump_document, parse_document
from cost_models.layer_work import layer_work
from spartan_planner.profiling.facts import device_category, measure_facts, peak_shapes


@pytest.fixture(scope="module")
def facts() -> DeviceFacts:
    return measure_facts(1)


def test_every_fact_says_how_it_was_measured(facts):
    measured = [
        *facts.peak_gflop_per_s.values(),
        facts.bandwidth_gb_per_s,
        facts.launch_overhead_us,
        facts.memory_gb,
    ]
    for fact in measured:
        assert math.isfinite(fact.value)
        assert fact.value > 0
        assert fact.source == "measured"
        assert len(fact.reference) > 10
    for fact in measured[:3]:
        assert f"ONNX Runtime {onnxruntime.__version__}, 1 thread(s)" in fact.reference


def test_units_are_right_to_a_thousand(facts):
    """A slip of a prefix would show; no device is that fast or slow."""
    assert 1e-3 < facts.peak_gflop_per_s["float32"].value < 1e6
    assert 1e-2 < facts.bandwidth_gb_per_s.value < 1e4
    assert 1e-3 < facts.launch_overhead_us.value < 1e4


def test_facts_survive_their_file(facts):
    assert parse_document(dump_document(facts), DeviceFacts, "facts") == facts


@pytest.mark.parametrize("num_threads", [1, 2, 8, 64])
def test_more_threads_get_more_arithmetic(num_threads):
    for few, many in zip(peak_shapes(1), peak_shapes(num_threads), strict=True):
        share = layer_work(many).num_flops / layer_work(few).num_flops
        assert num_threads / 2 <= share <= 2 * num_threads


@pytest.mark.parametrize(
    ("machine", "category"),
    [
        ("x86_64", "x86 CPU"),
        ("AMD64", "x86 CPU"),
        ("aarch64", "Arm CPU"),
        ("arm64", "Arm CPU"),
        ("armv7l", "Arm CPU"),
        ("riscv64", "unknown"),
    ],
)
def test_category_by_architecture(machine, category):
    assert device_category(machine) == category


def test_category_of_this_machine():
    assert device_category() in ("x86 CPU", "Arm CPU", "unknown")
