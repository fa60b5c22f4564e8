"""Groups of commands that list things and show one."""

import typer
from typer.core import TyperGroup


class ListOrShow(TyperGroup):
    """The bare group lists, with a name it shows; options may stand before the name."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the command that is meant in front."""
        named = next((item for item in args if not item.startswith("-")), None)
        if named is None:
            if not set(args) & set(ctx.help_option_names):
                args = ["list", *args]
        elif named in self.commands:
            rest = list(args)
            rest.remove(named)
            args = [named, *rest]
        else:
            args = ["show", *args]
        return super().parse_args(ctx, args)
