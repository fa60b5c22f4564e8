"""Tables that people read."""

import pytest

from spartan_planner.report import amount


@pytest.mark.parametrize(
    ("figure", "unit", "text"),
    [
        (3.79, "ms", "3.79 ms"),
        (5.12e8, "FLOPs", "512 MFLOPs"),
        (2.0, "J", "2 J"),
        (0.0421, "J", "42.1 mJ"),
        (4.21e-5, "J", "42.1 uJ"),
        (4.21e-9, "J", "0.00421 uJ"),
    ],
)
def test_figures_are_scaled_for_reading(figure, unit, text):
    assert amount(figure, unit) == text
