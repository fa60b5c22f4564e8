"""Recipes: read, overridden, resolved and carried out."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cost_models import write_document
from spartan_planner.checkpoints import load_weights, save_weights
from spartan_planner.errors import DocumentError, SpartanPlannerError, UsageError
from spartan_planner.model_names import load_model
from spartan_planner.planning import read_plan
from spartan_planner.training import TrainingSettings
from spartan_planner.training.recipe_models import (
    CharacterTransformer,
    character_transformer,
    cifar_resnet18,
    plain_cnn,
)
from spartan_planner.training.recipe_run import example_of, resolve, run_recipe
from spartan_planner.training.recipes import (
    Recipe,
    RecipeTraining,
    bundled_recipe_names,
    overridden,
    parse_overrides,
    read_recipe,
    recipe_text,
)

BUNDLED = (
    "cifar10-resnet18",
    "fashion-mnist-cnn",
    "imagenet-resnet50",
    "imagenet-vit-b16",
    "shakespeare-characters",
)
IMAGE_SHAPES = {
    "cifar10-resnet18": (32, 32, 3),
    "fashion-mnist-cnn": (28, 28),
    "imagenet-resnet50": (40, 36, 3),
    "imagenet-vit-b16": (40, 36, 3),
}
PUBLISHED_PARAMETERS = {"imagenet-resnet50": 25_557_032, "imagenet-vit-b16": 86_567_656}
"""Stated by torchvision beside its weights."""


def write_images(path: Path, shape: tuple[int, ...], count: int = 10) -> str:
    """An array file of images whose brightness tells their class."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(0).integers(0, 64, (count, *shape))
    bright = (labels * 128).reshape(-1, *(1 for _ in shape))
    np.savez(path, images=(noise + bright).astype(np.uint8), labels=labels)
    return str(path)


def write_text(path: Path, num_characters: int) -> str:
    path.write_text("to be or not to be, " * (num_characters // 20), encoding="utf-8")
    return f"text:{path}?context=16"


def tiny(name: str, folder: Path) -> dict[str, object]:
    """Overrides that make a bundled recipe a matter of seconds."""
    if name == "shakespeare-characters":
        source = write_text(folder / "input.txt", 400)
    else:
        source = write_images(folder / "images.npz", IMAGE_SHAPES[name])
    return {
        "data.source": source,
        "training.num_epochs": 2,
        "training.batch_size": 4,
        "training.num_workers": 0,
    }


def small_run(folder: Path, **more: object) -> dict[str, object]:
    return {**tiny("fashion-mnist-cnn", folder), **more}


def test_bundled_recipes_are_all_there_and_say_what_they_are():
    assert bundled_recipe_names() == BUNDLED
    for name in BUNDLED:
        recipe = read_recipe(name)
        assert recipe.description.endswith(".")
        assert "\n" not in recipe.description
        assert recipe.pruning is not None


@pytest.mark.parametrize("name", BUNDLED)
def test_a_recipe_is_written_as_it_is_read(name, tmp_path):
    recipe = read_recipe(name)
    write_document(tmp_path / "recipe.yaml", recipe)
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert (tmp_path / "recipe.yaml").read_text("utf-8") == recipe_text(recipe)


def test_recipes_know_every_setting_of_training():
    assert [item.name for item in fields(RecipeTraining)] == [
        item.name for item in fields(TrainingSettings)
    ]


@pytest.mark.parametrize("name", ["imagenet-resnet50", "imagenet-vit-b16"])
def test_the_papers_settings(name):
    recipe = read_recipe(name)
    is_vit = name == "imagenet-vit-b16"
    assert recipe.training.num_epochs == 100
    assert recipe.training.batch_size == 4096
    assert recipe.training.label_smoothing == 0.1
    assert recipe.training.learning_rate == (3e-3 if is_vit else 1.0)
    assert recipe.training.weight_decay == (0.3 if is_vit else 1e-4)
    assert recipe.training.optimizer == ("adamw" if is_vit else "sgd")
    assert recipe.pruning.schedule.beta == (20 if is_vit else 10)
    assert recipe.pruning.schedule.beta_rule == "paper"
    assert recipe.pruning.schedule.budget_fraction == 0.2
    assert recipe.pruning.schedule.sharpening_fraction == 0.8
    assert recipe.pruning.schedule.frozen_fraction == 0.2
    assert recipe.pruning.layouts == (("tile:16x16",) if is_vit else ("element",))
    built = load_model(recipe.model, on_meta=True)
    assert sum(item.numel() for item in built.parameters()) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("fashion-mnist-cnn", {}),
        ("shakespeare-characters", {"training.num_epochs": 1}),
        ("cifar10-resnet18", {"training.num_epochs": 1, "training.batch_size": 8}),
        # The network does not mind the size, and forty images of 224 x 224 take a minute.
        (
            "imagenet-resnet50",
            {
                "training.num_epochs": 1,
                "training.batch_size": 8,
                "training.mixed_precision": "no",
                "data.preprocessing.size": 32,
            },
        ),
    ],
)
def test_bundled_recipes_are_carried_out(name, more, tmp_path):
    out = tmp_path / "run"
    result = run_recipe(name, {**tiny(name, tmp_path), **more}, out)
    assert all(np.isfinite(loss) for loss in result.losses)
    plan = read_plan(out / "plan.yaml")
    asked = plan.budget.asked
    assert asked is not None
    assert result.stats["predicted"] <= asked
    weights = plain_weights(read_recipe(out / "recipe.yaml"), out)
    for layer in plan.sparse_layers:
        kept = int(weights[layer.name].count_nonzero())
        assert kept <= result.stats["kept_sizes"][layer.name] * block_elements(layer)
    written = json.loads((out / "result.json").read_text("utf-8"))
    assert written["accuracy"] == result.accuracy
    assert written["losses"] == list(result.losses)


def plain_weights(recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    model = load_model(recipe.model)
    load_weights(model, out / "weights.safetensors")
    return model.state_dict()


def block_elements(layer) -> float:
    return layer.num_weights / layer.num_whole_blocks if layer.layout != "element" else 1


def test_the_vision_transformer_is_planned_in_the_encoder_only(tmp_path):
    run = resolve("imagenet-vit-b16", tiny("imagenet-vit-b16", tmp_path))
    assert run.plan is not None
    assert example_of(run.data).shape == (1, 3, 224, 224)
    sparse = [layer for layer in run.plan.layers if layer.is_sparse]
    dense = [layer.name for layer in run.plan.layers if not layer.is_sparse]
    assert all(layer.name.startswith("encoder.") for layer in sparse)
    assert {"conv_proj.weight", "heads.head.weight"} <= set(dense)
    density = sum(item.density * item.num_weights for item in sparse) / sum(
        item.num_weights for item in sparse
    )
    assert 0.09 < density < 0.11


def test_a_dense_run_needs_no_plan(tmp_path):
    out = tmp_path / "run"
    result = run_recipe("fashion-mnist-cnn", small_run(tmp_path, pruning=None), out)
    assert result.stats == {}
    assert not (out / "plan.yaml").exists()


def test_a_given_plan_is_followed(tmp_path):
    wish = small_run(tmp_path)
    made = resolve("fashion-mnist-cnn", {**wish, "pruning.budgets": {"params": "50%"}}).plan
    result = run_recipe("fashion-mnist-cnn", wish, tmp_path / "run", made)
    assert read_plan(tmp_path / "run" / "plan.yaml") == made
    assert result.stats["predicted"] > 0.4 * made.budget.dense


def test_what_was_written_repeats_the_run(tmp_path):
    first = run_recipe("fashion-mnist-cnn", small_run(tmp_path), tmp_path / "a")
    again = run_recipe(tmp_path / "a" / "recipe.yaml", None, tmp_path / "b")
    assert first.losses == again.losses
    a, b = (plain_weights(read_recipe(tmp_path / x / "recipe.yaml"), tmp_path / x) for x in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_starts_from_the_weights_that_are_named(tmp_path):
    model = plain_cnn()
    with torch.no_grad():
        model[0][0].weight.fill_(0.25)
    save_weights(model, tmp_path / "start.safetensors")
    run = resolve(
        "fashion-mnist-cnn", small_run(tmp_path, checkpoint=str(tmp_path / "start.safetensors"))
    )
    assert torch.all(run.model.state_dict()["0.0.weight"] == 0.25)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.epochs": 1}, "training.epochs"),
        ({"training.num_epochs": "many"}, "valid integer"),
        ({"training.num_epochs": 0}, "at least 1"),
        ({"nothing": 1}, "nothing"),
        ({"model.name": "x"}, "has no part 'name'"),
        ({"pruning.budgets": {}}, "a budget is needed"),
        ({"pruning.budgets": {"weight": "3kg"}}, "'weight' is not known"),
        ({"pruning.layouts": ["blob"]}, "'blob' is not known"),
        ({"pruning.policy": "luck"}, "luck"),
        ({"pruning.min_density": {"0*": "much"}}, "share such as 50%"),
        ({"pruning.min_density": {"0*": "150%"}}, "between 0% and 100%"),
        ({"pruning.keep_dense": ["nowhere*"]}, "no layer matches 'nowhere"),
        ({"pruning.budgets": {"latency": "50%"}}, "profile"),
        ({"pruning.profile": "abacus"}, "abacus"),
        ({"checkpoint": "missing.safetensors"}, "missing.safetensors"),
        ({"data.source": "missing.npz"}, "missing.npz"),
        ({"model": "torchvision:resnet5000"}, "resnet5000"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_mistakes_are_told_before_training(overrides, message, tmp_path):
    with pytest.raises(SpartanPlannerError) as caught:
        run_recipe("fashion-mnist-cnn", small_run(tmp_path, **overrides), tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_overrides_reach_what_a_recipe_leaves_out():
    recipe = replace(read_recipe("fashion-mnist-cnn"), pruning=None)
    changed = overridden(recipe, {"pruning.budgets.params": "7%", "training.seed": 3})
    assert changed.pruning.budgets == {"params": "7%"}
    assert changed.training.seed == 3
    assert recipe.pruning is None


def test_overrides_are_written_like_yaml():
    given = parse_overrides(["training.num_epochs=3", "pruning=null", "pruning.layouts=[element]"])
    assert given == {
        "training.num_epochs": 3,
        "pruning": None,
        "pruning.layouts": ["element"],
    }


@pytest.mark.parametrize("text", ["training.num_epochs", "=3", "a=[1"])
def test_overrides_that_are_not_understood(text):
    with pytest.raises(UsageError, match="not understood"):
        parse_overrides([text])


def test_recipes_that_do_not_exist_name_the_bundled_ones():
    with pytest.raises(DocumentError, match="cifar10-resnet18"):
        read_recipe("cifar10")


def test_models_for_small_images():
    images = torch.zeros(2, 3, 32, 32)
    network = cifar_resnet18()
    assert network(images).shape == (2, 10)
    # Nothing is halved before the second stage.
    assert network.layer1(network.relu(network.bn1(network.conv1(images)))).shape[2:] == (32, 32)
    assert plain_cnn(3, width=0.01)(images).shape == (2, 10)


def test_characters_are_predicted_from_what_came_before():
    model = CharacterTransformer(width=16, num_blocks=2, num_heads=2).eval()
    characters = torch.randint(256, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = characters.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 256
    before, after = model(characters), model(changed)
    assert before.shape == (1, 12, 256)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_too_long_a_context_is_told():
    model = CharacterTransformer(width=8, num_blocks=1, num_heads=1, max_context=4)
    with pytest.raises(SpartanPlannerError, match="context of 5"):
        model(torch.zeros(1, 5, dtype=torch.int64))


def test_the_bundled_transformer_has_the_size_that_it_says():
    num_parameters = sum(item.numel() for item in character_transformer().parameters())
    assert round(num_parameters / 1e6, 1) == 3.4
