import pytest

from spartan_planner.planning import Schedule
from spartan_planner.training.schedules import schedule_point


@pytest.mark.parametrize(
    ("step", "budget_share", "sharpened", "is_frozen"),
    [
        (0, 1.0, 0.0, False),
        (10, 0.5, 1 / 8, False),
        (20, 0.0, 1 / 4, False),
        (79, 0.0, 79 / 80, False),
        (80, 0.0, 1.0, True),
        (100, 0.0, 1.0, True),
    ],
)
def test_the_papers_schedule(step, budget_share, sharpened, is_frozen):
    point = schedule_point(Schedule(), step, 100)
    assert point.budget_share == pytest.approx(budget_share)
    assert point.sharpened == pytest.approx(sharpened)
    assert point.is_frozen is is_frozen


def test_a_cubic_fall_keeps_the_cube_of_what_is_left_of_the_way():
    schedule = Schedule(budget_fraction=0.5, budget_fall="cubic")
    shares = [schedule_point(schedule, step, 100).budget_share for step in (0, 25, 49, 50, 70)]
    assert shares == pytest.approx([1.0, 0.5**3, 0.02**3, 0.0, 0.0])


def test_phases_of_no_length_are_done_at_once():
    point = schedule_point(Schedule(0.0, 0.0, 0.0, 5.0), 1, 10)
    assert (point.budget_share, point.sharpened, point.is_frozen) == (0.0, 1.0, False)


@pytest.mark.parametrize("step", [-1, 11])
def test_a_step_outside_training_is_refused(step):
    with pytest.raises(ValueError, match="lies outside 0 to 10"):
        schedule_point(Schedule(), step, 10)
