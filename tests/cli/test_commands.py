"""The table of commands says what the commands say themselves."""

from __future__ import annotations

import inspect

from ckptman.cli import commands
from ckptman.cli.app import app


def summaries() -> dict[str, str]:
    commands.register()
    helps = {str(info.name): inspect.getdoc(info.callback) or "" for info in app.registered_commands if info.callback}
    return {name: " ".join(text.split("\n\n")[0].split()) for name, text in helps.items()}


def test_each_summary_is_the_first_paragraph_of_its_commands_help() -> None:
    assert {name: command.summary for name, command in commands.COMMANDS.items()} == summaries()


def test_each_module_holds_its_command() -> None:
    found = {str(info.name): info.callback.__module__ for info in app.registered_commands if info.callback}
    assert found == {name: f"ckptman.cli.{command.module}" for name, command in commands.COMMANDS.items()}
