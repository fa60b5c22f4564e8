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
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart_command)
app.command("inspect")(inspect_command)
app.command("profile")(profile_command)
app.command("plan")(plan_command)
app.command("train")(train_command)
app.command("export")(export_command)
app.command("lower")(lower_command)
app.command("verify")(verify_command)
app.add_typer(profiles_app, name="profiles")
app.command("cost-models")(cost_models_command)


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
