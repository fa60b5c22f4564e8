"""What ``train`` was asked for: where it writes, and the recipe that its options make."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from spartan_planner.cli.options import require_output
from spartan_planner.errors import UsageError

if TYPE_CHECKING:
    from spartan_planner.training import Distillation
    from spartan_planner.training.recipes import Recipe


@dataclass(frozen=True)
class Places:
    """Where a run is written.

    Attributes:
        weights: the file of the weights.
        folder: of everything else; ``None`` where nothing else is kept.
    """

    weights: Path
    folder: Path | None

    def require(self, *inputs: Path | None) -> None:
        """Refuse places that cannot be written, or that are read.

        Raises:
            UsageError: naming the place.
        """
        if self.folder and self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is not a folder; give the run the name of one")
        require_output(self.weights, *inputs)
        if self.weights.suffix != ".safetensors":
            raise UsageError(
                f"weights are written as safetensors; name {self.weights} with .safetensors"
            )


def places_of(out: Path | None, run_dir: Path | None, recipe: str | None) -> Places:
    """Return where everything goes.

    Raises:
        UsageError: that is not clear.
    """
    return _recipe_places(out, run_dir, recipe) if recipe else _places(out, run_dir)


def require_named(
    model: str | None, data: str | None, recipe: str | None, changes: list[str] | None
) -> None:
    """Refuse a run of nothing, and changes of no recipe.

    Raises:
        UsageError: naming what is missing.
    """
    if changes and not recipe:
        raise UsageError("--set changes a recipe; give --recipe too")
    if not recipe and not (model and data):
        raise UsageError("give MODEL and --data, or a --recipe, which names both")


def _places(out: Path | None, run_dir: Path | None) -> Places:
    path = out or (run_dir and run_dir / "weights.safetensors")
    if not path:
        raise UsageError("give --out, --run-dir or both, to say where the weights are written")
    return Places(path, run_dir)


def _recipe_places(out: Path | None, run_dir: Path | None, recipe: str) -> Places:
    if out and run_dir:
        raise UsageError("with --recipe everything goes into one folder; give --out alone")
    folder = out or run_dir or Path(Path(recipe).stem)
    if folder.suffix == ".safetensors":
        raise UsageError(f"with --recipe --out is a folder; {folder} is the name of a file")
    return Places(folder / "weights.safetensors", folder)


def require_folder(folder: Path | None, resume: bool, tracker: list[str] | None) -> None:
    """Refuse what needs the folder of a run where there is none.

    Raises:
        UsageError: naming the option.
    """
    for option, is_given in (("--resume", resume), ("--tracker", tracker)):
        if is_given and not folder:
            raise UsageError(f"{option} needs the folder of a run; give --run-dir too")


def own_recipe(parts: dict[str, str | None], settings: dict[str, Any]) -> "Recipe":
    """Return the recipe that the options alone make.

    Args:
        parts: model, data and checkpoint, by their keys in a recipe.
        settings: the fields of :class:`TrainingSettings`.

    Raises:
        TrainingError: settings that cannot train.
    """
    from spartan_planner.training.recipes import Recipe, RecipeData, RecipeTraining

    model, source = parts["model"], parts["data.source"]
    assert model is not None
    assert source is not None
    training, checkpoint = RecipeTraining(**settings), parts["checkpoint"]
    return Recipe(1, "", model, RecipeData(source), training, pruning=None, checkpoint=checkpoint)


def changed_recipe(
    name: str,
    context: typer.Context,
    parts: dict[str, str | None],
    settings: dict[str, Any],
    changes: list[str],
) -> "Recipe":
    """Return the named recipe with what was given on the command line in it.

    Args:
        name: of a bundled recipe, or of a file.
        context: knows which of the settings were given.
        parts: as for :func:`own_recipe`.
        settings: as for :func:`own_recipe`.
        changes: texts of ``--set``.

    Raises:
        UsageError: a change that is not understood.
        DocumentError: there is no such recipe, or it cannot be changed so.
    """
    from spartan_planner.training.recipes import overridden, parse_overrides, read_recipe

    replaced = {key: value for key, value in parts.items() if value is not None}
    chosen = {f"training.{k}": v for k, v in settings.items() if _is_given(context, k)}
    return overridden(read_recipe(name), {**replaced, **chosen, **parse_overrides(changes)})


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether a setting was chosen by the user."""
    source = context.get_parameter_source(name)
    if source is None or source.name != "ENVIRONMENT":
        return source is not None and source.name == "COMMANDLINE"
    # 'accelerate launch' sets its variables also where nothing was asked of it, to the defaults.
    from spartan_planner.training.settings import TrainingSettings

    return bool(context.params[name] != getattr(TrainingSettings(), name))


def origin_of(wish: "Recipe", distill: Path | None) -> dict[str, str | None]:
    """What a run was made of, for a run that is resumed to be made of the same."""
    prepared = wish.data.preprocessing
    return {
        "model": wish.model,
        "data": wish.data.source,
        "checkpoint": wish.checkpoint,
        "teacher": str(distill) if distill else None,
        **({"preprocessing": str(prepared)} if prepared else {}),
    }


def teacher_of(wish: "Recipe", weights: Path, weight: float, temperature: float) -> "Distillation":
    """Return the recipe's model with a teacher's weights.

    Raises:
        SpartanPlannerError: the weights do not fit the model, or the figures cannot be.
    """
    from spartan_planner.checkpoints import load_weights
    from spartan_planner.model_names import load_model
    from spartan_planner.training import Distillation

    teacher = Distillation(load_model(wish.model, wish.training.seed), weight, temperature)
    load_weights(teacher.teacher, weights)
    return teacher
