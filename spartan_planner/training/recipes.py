"""Recipes: everything that a training run needs, as one YAML document."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cost_models import Layout
from cost_models.documents import document, dump_document, parse_document, read_document, to_plain
from cost_models.errors import DocumentError
from spartan_planner.errors import UsageError
from spartan_planner.planning import Bound, Budget, Policy, Schedule
from spartan_planner.planning.budget import budget_for
from spartan_planner.planning.policies import parse_policy
from spartan_planner.training.data.preprocessing import Preprocessing
from spartan_planner.training.settings import TrainingSettings

_FOLDER = Path(__file__).resolve().parent.parent / "recipes"


@document
@dataclass(frozen=True)
class RecipeData:
    """What to train on.

    Attributes:
        source: a name that ``load_data`` understands.
        preprocessing: how images are prepared; ``None`` for the source's default.
    """

    source: str
    preprocessing: Preprocessing | None = None


@document
@dataclass(frozen=True)
class RecipeTraining(TrainingSettings):
    """How to train; the keys are those of :class:`TrainingSettings`."""


@document
@dataclass(frozen=True)
class RecipePruning:
    """What to prune, for the plan that is made before training.

    Attributes:
        budgets: what the whole model may cost, such as ``params: 10%``.
        layouts: layouts to choose from, such as ``element``; empty for the planner's default.
        profile: a bundled profile or the path of one; ``None`` where no cost depends on a device.
        policy: how kept weights are spread over the layers.
        keep_dense: patterns of layers that stay dense.
        min_density: least density of layers, by pattern, such as ``head*: 50%``.
        schedule: how training comes from dense to the budget.
    """

    budgets: dict[str, str]
    layouts: tuple[str, ...] = ()
    profile: str | None = None
    policy: str = "cost"
    keep_dense: tuple[str, ...] = ()
    min_density: dict[str, str] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        """Refuse names and figures that nothing stands for."""
        try:
            self.parsed_budgets()
            self.bounds()
            self.parsed_policy()
        except UsageError as error:
            raise ValueError(str(error)) from error
        for layout in self.layouts:
            Layout.parse(layout)

    def parsed_budgets(self) -> tuple[Budget, ...]:
        """Return the budgets.

        Raises:
            UsageError: there is none, or one is not understood.
        """
        if not self.budgets:
            raise UsageError("a budget is needed, such as params: 10%")
        return tuple(budget_for(cost, amount) for cost, amount in self.budgets.items())

    def bounds(self) -> tuple[Bound, ...]:
        """Return the bounds on layers.

        Raises:
            UsageError: a density is not understood.
        """
        dense = [Bound(pattern, keep_dense=True) for pattern in self.keep_dense]
        least = [
            Bound(pattern, min_density=_share(pattern, text))
            for pattern, text in self.min_density.items()
        ]
        return (*dense, *least)

    def parsed_policy(self) -> Policy:
        """Return the policy.

        Raises:
            UsageError: there is none of that name.
        """
        return parse_policy(self.policy)


def _share(pattern: str, text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UsageError(f"density {text!r} of {pattern!r} must be a share such as 50%") from error


@document
@dataclass(frozen=True)
class Recipe:
    """A model, its data, how to train it and what to prune.

    Attributes:
        schema_version: version of this document.
        description: one sentence for a list of recipes, and what to know before.
        model: what ``load_model`` understands.
        data: what to train on.
        training: how to train.
        pruning: what to prune; ``None`` trains the dense model.
        checkpoint: weights to start from; ``None`` starts from random ones.
    """

    schema_version: Literal[1]
    description: str
    model: str
    data: RecipeData
    training: RecipeTraining
    pruning: RecipePruning | None
    checkpoint: str | None = None


def bundled_recipe_names() -> tuple[str, ...]:
    """Names of the recipes that ship with the project."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def read_recipe(name: str | Path) -> Recipe:
    """Read a recipe: a bundled one by name, or a file by path.

    Raises:
        DocumentError: there is none of that name, or the file is not a recipe.
    """
    if str(name) in bundled_recipe_names():
        return read_document(_FOLDER / f"{name}.yaml", Recipe, "recipe")
    if not Path(name).exists():
        raise DocumentError(
            f"recipe {name} does not exist; give the path of a file, or the name of a bundled "
            f"recipe ({', '.join(bundled_recipe_names())})"
        )
    return read_document(Path(name), Recipe, "recipe")


def parse_overrides(texts: tuple[str, ...] | list[str]) -> dict[str, object]:
    """Read ``training.num_epochs=3`` and the like; what is behind the sign is YAML.

    Raises:
        UsageError: a text has another form.
    """
    found: dict[str, object] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{text!r} is not understood: its value is not YAML") from error
        if not sign or not key.strip():
            raise UsageError(f"{text!r} is not understood; write training.num_epochs=3")
    return found


def overridden(recipe: Recipe, overrides: Mapping[str, object]) -> Recipe:
    """Return the recipe with other values.

    Args:
        recipe: the recipe.
        overrides: values by dotted key, such as ``training.num_epochs``.

    Raises:
        UsageError: a key goes through something that has no parts.
        DocumentError: there is no such key, or the value does not suit it.
    """
    plain = copy.deepcopy(to_plain(recipe))
    for key, value in overrides.items():
        _put(plain, key, value)
    # Through its text, so that what is checked is what a file may hold.
    return parse_document(yaml.safe_dump(plain), Recipe, "recipe with overrides")


def _put(plain: dict[str, Any], key: str, value: object) -> None:
    *path, last = key.split(".")
    place = plain
    for number, part in enumerate(path):
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise UsageError(f"{'.'.join(path[: number + 1])} has no part {last!r} to override")
    place[last] = value


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe's YAML, every default written out."""
    return dump_document(recipe)
