"""``cost-models``: what can be budgeted; needs no torch."""

from rich.table import Table

from cost_models import cost_model, cost_model_names
from spartan_planner.cli.options import AsJson, print_json
from spartan_planner.console import show


def cost_models_command(as_json: AsJson = False) -> None:
    """List the costs that a budget can be given for."""
    models = [cost_model(name) for name in cost_model_names()]
    if as_json:
        print_json(
            [{"name": m.name, "unit": m.unit, "needs_profile": m.needs_profile} for m in models]
        )
        return
    table = Table()
    for heading in ("cost", "unit", "needs a profile"):
        table.add_column(heading)
    for model in models:
        table.add_row(model.name, model.unit, "yes" if model.needs_profile else "no")
    show(table)
