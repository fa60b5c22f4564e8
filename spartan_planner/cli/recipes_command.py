"""``recipes``: list and show training recipes."""

from typing import TYPE_CHECKING, Annotated

import typer

from cost_models.documents import to_plain
from spartan_planner.cli.groups import ListOrShow
from spartan_planner.cli.options import AsJson, print_json
from spartan_planner.console import show

if TYPE_CHECKING:
    from rich.table import Table

    from spartan_planner.training.recipes import Recipe

recipes_app = typer.Typer(
    cls=ListOrShow,
    help="List the bundled recipes for 'train --recipe', or show one.  'recipes' alone lists, "
    "'recipes RECIPE' shows.",
    short_help="List the bundled training recipes, or show one.",
    no_args_is_help=False,
)


@recipes_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the bundled recipes: model, data, budgets."""
    from spartan_planner.training.recipes import bundled_recipe_names, read_recipe

    recipes = {name: read_recipe(name) for name in bundled_recipe_names()}
    if as_json:
        print_json({name: to_plain(recipe) for name, recipe in recipes.items()})
    else:
        show(_recipes_table(recipes))


@recipes_app.command("show")
def show_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A bundled recipe's name or a file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show a recipe as YAML, every default written out.

    These are the keys that 'train --set' can change.
    """
    from spartan_planner.training.recipes import read_recipe, recipe_text

    found = read_recipe(recipe)
    if as_json:
        print_json(to_plain(found))
    else:
        typer.echo(recipe_text(found), nl=False)


def _recipes_table(recipes: "dict[str, Recipe]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title="recipes", box=box.SIMPLE)
    table.add_column("name", no_wrap=True)
    table.add_column("what")
    table.add_column("data", overflow="fold")
    for name, recipe in recipes.items():
        table.add_row(name, recipe.description, recipe.data.source)
    return table
