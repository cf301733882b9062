"""Numbers on a command line that are no options."""

from __future__ import annotations

import difflib

import click


class Numbers(click.Command):
    """A command that takes -0.1 and -inf as arguments, and still refuses an option it does not know."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; NoSuchOption for an unknown long option."""
        known = {name for param in self.get_params(ctx) for name in param.opts}
        for arg in args:
            name = arg.partition("=")[0]
            if name.startswith("--") and name != "--" and name not in known:
                raise click.NoSuchOption(name, possibilities=difflib.get_close_matches(name, known), ctx=ctx)
        return super().parse_args(ctx, args)
