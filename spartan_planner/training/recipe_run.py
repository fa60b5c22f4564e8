"""A recipe carried out: model, data and plan made, the model trained, everything written down."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from cost_models import write_document
from cost_models.documents import write_json
from spartan_planner.bundled_profiles import load_profile
from spartan_planner.checkpoints import load_weights, save_weights
from spartan_planner.model_names import load_model
from spartan_planner.plan_model import plan as plan_model
from spartan_planner.planning import Plan
from spartan_planner.progress import Advance, no_progress
from spartan_planner.training.data.split import DataSplit
from spartan_planner.training.datasets import load_data
from spartan_planner.training.engine import TrainingResult, train
from spartan_planner.training.losses import Distillation
from spartan_planner.training.methods import method_named
from spartan_planner.training.processes import on_main_process
from spartan_planner.training.recipes import Recipe, overridden, read_recipe
from spartan_planner.training.run_folder import holds_run, require_free
from spartan_planner.training.settings import Recording

RECIPE, PLAN, WEIGHTS, RESULT = "recipe.yaml", "plan.yaml", "weights.safetensors", "result.json"
"""What a run leaves in its folder."""


@dataclass(frozen=True)
class RecipeRun:
    """What a recipe stands for, ready to be trained.

    Attributes:
        recipe: the recipe, overrides included.
        model: its model, with the weights to start from.
        data: its data.
        plan: what to prune; ``None`` for a dense model.
    """

    recipe: Recipe
    model: nn.Module
    data: DataSplit
    plan: Plan | None


def resolve(
    recipe: Recipe | str | Path,
    overrides: Mapping[str, object] | None = None,
    plan: Plan | None = None,
) -> RecipeRun:
    """Make everything that a recipe names; nothing is trained.

    Args:
        recipe: a recipe, the name of a bundled one or the path of a file.
        overrides: values by dotted key, such as ``training.num_epochs``.
        plan: what to prune; by default it is made as the recipe says.

    Raises:
        SpartanPlannerError: a name stands for nothing, or the parts do not fit together.
    """
    read = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    wish = overridden(read, overrides) if overrides else read
    if wish.training.method is not None:
        method_named(wish.training.method)
    data = load_data(wish.data.source, wish.data.preprocessing)
    model = load_model(wish.model, wish.training.seed)
    if wish.checkpoint is not None:
        load_weights(model, Path(wish.checkpoint))
    return RecipeRun(wish, model, data, plan or _planned(wish, model, example_of(data)))


def example_of(data: DataSplit) -> Tensor:
    """Return the first test input as a batch of one."""
    return data.test[0][0].unsqueeze(0)


def _planned(wish: Recipe, model: nn.Module, example: Tensor) -> Plan | None:
    if wish.pruning is None:
        return None
    pruning = wish.pruning
    return plan_model(
        model,
        example,
        budgets=pruning.parsed_budgets(),
        profile=load_profile(pruning.profile) if pruning.profile else None,
        layouts=pruning.layouts,
        schedule=pruning.schedule,
        bounds=pruning.bounds(),
        policy=pruning.parsed_policy(),
        model_name=wish.model,
    )


def run_recipe(
    recipe: Recipe | str | Path,
    overrides: Mapping[str, object] | None,
    out: Path,
    plan: Plan | None = None,
    advance: Advance = no_progress,
    recording: Recording | None = None,
    distillation: Distillation | None = None,
) -> TrainingResult:
    """Plan, if no plan is given, and train.

    Args:
        recipe: a recipe, the name of a bundled one or the path of a file.
        overrides: values by dotted key, such as ``training.num_epochs``.
        out: folder for the recipe as it was carried out, the plan, the weights and the result.
        plan: what to prune; by default it is made as the recipe says.
        advance: called after each step with the current loss.
        recording: keeps a log and checkpoints of the run; nothing is kept without it.
        distillation: a teacher to learn from beside the labels.

    Raises:
        SpartanPlannerError: a name stands for nothing, the parts do not fit together, or training
            cannot go on.
    """
    return carry_out(resolve(recipe, overrides, plan), out, advance, recording, distillation)


def carry_out(
    run: RecipeRun,
    out: Path,
    advance: Advance = no_progress,
    recording: Recording | None = None,
    distillation: Distillation | None = None,
) -> TrainingResult:
    """Train what a recipe stands for and write everything down; arguments as :func:`run_recipe`.

    Of several processes the main one writes.  A run that is resumed keeps the recipe and the plan
    that it was started with.

    Raises:
        TrainingError: training cannot start or go on.
        DocumentError: a file cannot be written.
    """
    on_main_process(lambda: _write_wish(run, out, recording))
    result = train(
        run.model,
        run.data,
        run.recipe.training,
        run.plan,
        advance,
        recording=recording,
        distillation=distillation,
    )
    on_main_process(lambda: _write_result(run, out, result))
    return result


def _write_wish(run: RecipeRun, out: Path, recording: Recording | None) -> None:
    if recording is not None:
        require_free(recording)
        if holds_run(recording.folder):
            return
    write_document(out / RECIPE, run.recipe)
    if run.plan is not None:
        write_document(out / PLAN, run.plan)


def _write_result(run: RecipeRun, out: Path, result: TrainingResult) -> None:
    save_weights(run.model, out / WEIGHTS)
    write_json(out / RESULT, asdict(result))
