"""What ``import spartan_planner as sp`` offers."""

import pytest

import cost_models
import spartan_planner as sp


@pytest.mark.parametrize("name", sp.__all__)
def test_every_public_name_can_be_used_and_is_documented(name):
    assert getattr(sp, name).__doc__
    assert name in dir(sp)


@pytest.mark.parametrize("name", cost_models.__all__)
def test_every_public_name_of_cost_models_is_documented(name):
    assert getattr(cost_models, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = sp.prune


def test_every_error_is_in_one_tree():
    from spartan_planner import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), cost_models.SpartanPlannerError)
