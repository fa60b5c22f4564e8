"""The application: its commands and how errors become exit codes."""

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from spartan_planner.cli.cost_models_command import cost_models_command
from spartan_planner.cli.export_command import export_command
from spartan_planner.cli.inspect_command import inspect_command
from spartan_planner.cli.lower_command import lower_command
from spartan_planner.cli.plan_command import plan_command
from spartan_planner.cli.profile_command import profile_command
from spartan_planner.cli.profiles_command import profiles_app
from spartan_planner.cli.quickstart_command import quickstart_command
from spartan_planner.cli.recipes_command import recipes_app
from spartan_planner.cli.train_command import train_command
from spartan_planner.cli.verify_command import verify_command
from spartan_planner.errors import SpartanPlannerError

EXIT_WRONG_USE = 2
EXIT_DEFECT = 70
"""A crash must look like neither success nor a missed promise (70 is sysexits' software error)."""

app = typer.Typer(
    name="spartan-planner",
    help="Ask for milliseconds on your device; get a pruned ONNX model that delivers them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Typer's panels cut long words at the edge and call every flag a <bool>.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart", short_help="The whole path on this CPU and built-in data.")(
    quickstart_command
)
app.command("inspect", short_help="Describe the weights of a model: what can be pruned.")(
    inspect_command
)
app.command("profile", short_help="Measure this device for the layers of a model.")(profile_command)
app.command("plan", short_help="Choose what to keep, and predict the cost.")(plan_command)
app.command("train", short_help="Train, dense, to a plan or by a recipe.")(train_command)
app.add_typer(recipes_app, name="recipes")
app.command("export", short_help="Write ONNX, checked against torch.")(export_command)
app.command("lower", short_help="Make the zero blocks of any ONNX file save time.")(lower_command)
app.command("verify", short_help="Measure an exported file against its promise.")(verify_command)
app.add_typer(profiles_app, name="profiles")
app.command("cost-models", short_help="List the costs that a budget can be given for.")(
    cost_models_command
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spartan-planner {version('spartan-planner')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Ask for milliseconds on your device; get a pruned ONNX model that delivers them."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 promise missed, 2 wrong use."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # Read by the OpenMP runtime when torch is imported: waiting threads yield instead of spinning,
    # which costs nothing on an idle machine and made training five times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=arguments)
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else 0
    except SpartanPlannerError as error:
        typer.echo(f"error: {error}", err=True)
        return EXIT_WRONG_USE
    except ImportError as error:
        typer.echo(f"error: this command needs a package that is missing: {error}", err=True)
        return EXIT_WRONG_USE
    except Exception:
        traceback.print_exc()
        typer.echo("this is a defect of spartan-planner; please report it with the above", err=True)
        return EXIT_DEFECT
    return 0
