"""What the help of all commands shares: panels, `-h`, and examples below the options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

COMPARE = "Compare"
RESULTS = "Results"
LOOK_UP = "Look up"
EXTEND = "Extend"
MACHINE = "This machine"
PANELS = (COMPARE, RESULTS, LOOK_UP, EXTEND, MACHINE)
CONTEXT = {"help_option_names": ["-h", "--help"]}


class PanelGroup(TyperGroup):
    """A group whose commands are listed panel by panel, in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: PANELS.index(getattr(self.commands[name], "rich_help_panel", COMPARE)))


def command_group(text: str, **options: Any) -> typer.Typer:
    """A group of commands, which shows its help if it is called alone."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode="rich", context_settings=CONTEXT, **options)


def add_command(
    group: typer.Typer, name: str, function: Callable[..., None], examples: tuple[str, ...], panel: str | None = None
) -> None:
    """Add a command with examples, which its help shows last."""
    lines = "\n\n".join(f"$ zigma-bench {example}".replace("[", r"\[") for example in examples)
    options = {} if panel is None else {"rich_help_panel": panel}
    epilog = f"{'Example' if len(examples) == 1 else 'Examples'}:\n\n{lines}"
    group.command(name, epilog=epilog, context_settings=CONTEXT, **options)(function)  # type: ignore[arg-type]
