"""The `ckptman` program: the command table, options that commands share, and the one place where errors end.

Exit status: 0 done and clean, 1 done with findings or something refused, 2 wrong usage or configuration, 3 a fault of
the program or the machine, 130 interrupted.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

import ckptman
from ckptman.cli import commands, completing, helping, refused_values, starting, text
from ckptman.cli.text import console, plain
from ckptman.text import CkptmanError, ConfigurationError, UsageError

if TYPE_CHECKING:  # imported where they are used: --help needs none of them
    from ckptman.rules import Convention

INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_OF_THE_MACHINE = (*_FULL, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ETIMEDOUT)
"""Failures of calls to the system that are no fault of the program's."""


ASKED = "ckptman.asked"
"""Where the context has what was asked."""


class Asked(NamedTuple):
    """The command line, as `remembering` needs it."""

    words: tuple[str, ...]
    began_ns: int
    """When they began to be understood."""
    rules: Path | None = None
    """The file with rules that was found for the current folder."""


class Commands(typer.core.TyperGroup):
    """The commands, each imported when it is called: a listing of them is made from their table."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the program, which holds its words; a help text takes the width of the terminal."""
        asked = Asked(tuple(args), time.time_ns())
        context = super().make_context(info_name, args, parent, **{"max_content_width": helping.widest(), **extra})
        context.meta[ASKED] = asked
        return context

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the table."""
        return list(commands.COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, its module imported now; None where there is none of that name."""
        if cmd_name not in self.commands and cmd_name in commands.COMMANDS:
            commands.register(cmd_name)
            info = next(info for info in app.registered_commands if info.name == cmd_name)
            self.commands[cmd_name] = typer.main.get_command_from_info(
                info, pretty_exceptions_short=False, rich_markup_mode=None
            )
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name; an unknown one is refused with the nearest known names."""
        if args and args[0] not in commands.COMMANDS:
            for name in commands.COMMANDS:  # what is suggested is taken from those that are loaded
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What the shell is offered: commands from their table, without importing them."""
        words = [name for name in commands.COMMANDS if name.startswith(incomplete)]
        if not words:
            return helping.briefly(super().shell_complete(ctx, incomplete))
        item: Any = vars(typer.core)["CompletionItem"]
        return helping.briefly([item(name, help=commands.COMMANDS[name].summary) for name in words])

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands for --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in commands.COMMANDS.items()])


_Function = TypeVar("_Function", bound=Callable[..., None])


class App(typer.Typer):
    """The program. Every command's help is laid out alike."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[_Function], _Function]:
        """Register a function as a command."""
        return super().command(name, **{"cls": helping.Helped, **more})


app = App(
    name="ckptman",
    cls=Commands,
    help="Sort, check and document the model checkpoints of a training grid.",
    epilog="ckptman alone says what is here; ckptman help COMMAND says what a command does.",
    invoke_without_command=True,
    rich_markup_mode=None,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ckptman {ckptman.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="CKPTMAN_CONFIG",
            metavar="FILE",
            help="Rules and settings; by default the nearest ckptman.yaml in the tree or above it.",
        ),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            "--convention",
            envvar="CKPTMAN_CONVENTION",
            metavar="NAME",
            help="A convention that comes with ckptman, in place of a ckptman.yaml: ckptman config lists them.",
            autocompletion=completing.conventions,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result, warnings and errors only: no progress, no advice.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    text.be_quiet(quiet)
    text.be_verbose(False)
    if config is not None and not config.is_file():
        raise UsageError(f"there is no file {config}", code="no-config", fix="Give --config an existing ckptman.yaml.")
    from ckptman.rules import convention_file

    if convention is not None:
        config = _shipped(convention, config)
    context.obj = config
    file = config or convention_file.find_file(Path.cwd())
    context.meta[ASKED] = context.meta[ASKED]._replace(rules=file)
    if file is not None:
        settings = dict(convention_file.load_convention(file).settings)
        if "root" in settings:
            settings["root"] = str(file.parent / str(settings["root"]))
        context.default_map = _defaults(context, settings, file)
    if context.invoked_subcommand is None:
        from ckptman.cli.here import show_here

        show_here(context)


def _shipped(name: str, config: Path | None) -> Path:
    """The file of a shipped convention."""
    from ckptman.rules import convention_file

    if config is not None:
        raise UsageError("--convention and --config are two rules", code="bad-usage", fix="Give one of them.")
    known = convention_file.shipped()
    if name not in known:
        from ckptman.text import wording

        raise UsageError(
            f"there is no convention {name!r}{wording.did_you_mean(name, known)}",
            code="no-config",
            fix=f"There are: {', '.join(known)}. A file of your own is named with --config.",
        )
    return known[name]


def convention_for(context: typer.Context, root: Path, numbering: str | None = None) -> Convention:
    """The rules for a tree: `--config`, else the nearest ckptman.yaml in or above the tree, else the built-in ones."""
    from ckptman.rules import convention_file

    return convention_file.load_convention(context.obj or convention_file.find_file(root), numbering=numbering)


def print_json(document: Any) -> None:
    """Print the one JSON document of a command."""
    from ckptman.text import json_text

    sys.stdout.write(json_text.dump_json(document).decode("ascii"))


def next_step(command: str) -> None:
    """Say on stderr which command comes next in the work."""
    console(stderr=True).print(plain(f"Next: {command}", "dim"), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    console(stderr=True, urgent=True).print(plain("WARNING ", "bold yellow") + plain(message))


def run(arguments: list[str]) -> int:
    """Run one command line, and return its exit status. Every error ends here."""
    starting.prepare_streams()
    gc.set_threshold(100_000, 50, 100)  # large trees are many objects without cycles, which it walks in vain
    # Threads of torch that wait spin by default, and so take the cores from another training in the next terminal.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if arguments[:1] == ["help"]:
            arguments = [*arguments[1:], "--help"]
        status = int(_command().main(arguments, prog_name="ckptman", standalone_mode=False) or 0)
        sys.stdout.flush()
    except BaseException as error:
        return ended_by(error, arguments)
    return _interrupted(arguments) if status == INTERRUPTED else status


def ended_by(error: BaseException, arguments: list[str]) -> int:
    """Tell of an error that ends the program; the exit status."""
    try:
        raise error
    except typer.TyperException as error:
        return _usage_error(error)
    except CkptmanError as error:
        _print_error(error.message, error.fix)
        return error.exit_status
    except BrokenPipeError:
        return _reader_has_gone()
    except SystemExit as end:  # what rich and Typer make of a closed pipe
        if isinstance(end.__context__, BrokenPipeError):
            return _reader_has_gone()
        raise
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            return _unwritable_output(error)
        if isinstance(error, FileNotFoundError) and not _is_somewhere():
            _print_error("the folder that this shell is in is not there any more", "Go to another one, with cd.")
            return 3
        if error.errno not in _OF_THE_MACHINE:
            return _bug(error, arguments)
        where = "" if error.filename is None else f" ({error.filename})"
        _print_error(f"the command ended early: {error.strerror}{where}", "Check the disk, then do it again.")
        return 3
    except Exception as error:
        return _bug(error, arguments)


def _interrupted(arguments: list[str]) -> int:
    invoked = next((word for word in arguments if word in commands.COMMANDS), "")
    goes_on = invoked in commands.GOES_ON and commands.LEAVES_NOTHING.isdisjoint(arguments)
    _print_error("interrupted", "Run the same command again: it goes on from where it was." if goes_on else "")
    return INTERRUPTED


def _is_somewhere() -> bool:
    """Whether the current folder is there."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return False
    return True


def _reader_has_gone() -> int:
    # As with `| head`: nothing more can be said there, and nothing went wrong.
    starting.silence(sys.__stdout__.fileno())  # type: ignore[union-attr]
    return 0


def _unwritable_output(error: OSError) -> int:
    starting.silence(sys.stdout.fileno())  # what is still in the buffer cannot be written
    _print_error(f"the output cannot be written: {error.strerror}", "Free space where it goes, or send it elsewhere.")
    return 3


def _command() -> Any:
    return typer.main.get_command(app)


def _defaults(context: typer.Context, settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """The settings of a ckptman.yaml as defaults for the options of each command."""
    from difflib import get_close_matches

    group: Any = context.command
    every = {name: group.get_command(context, name) for name in group.list_commands(context)}
    options = {name: {str(item.name): item for item in command.params} for name, command in every.items()}
    known = {option for names in options.values() for option in names}
    for key in settings:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(
                f"{file}: settings: no command has an option {key!r}{hint}",
                code="bad-convention",
                fix="Settings are defaults for options, such as `mode: hardlink` for --mode.",
            )
    called = options.get(str(context.invoked_subcommand), {})
    for key, value in settings.items():  # of other commands too: a wrong one is found before it is needed
        takers = [called[key]] if key in called else [names[key] for names in options.values() if key in names]
        problems = [_problem_of(context, option, value) for option in takers]
        if all(problems):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigurationError(
                f"{file}: settings: {key}: "
                + (problems[0] if problems[0].startswith(repr(shown)) else f"cannot be {shown!r}: {problems[0]}"),
                code="bad-convention",
                fix="Correct the value, or take the key out.",
            )
    return {
        name: {key: _as_taken(names[key], value) for key, value in settings.items() if key in names}
        for name, names in options.items()
    }


def _takes_several(option: Any) -> bool:
    return bool(option.multiple or option.nargs != 1)


def _as_taken(option: Any, value: Any) -> Any:
    """A setting as its option takes it: one value is a list of one where there may be several."""
    return [value] if _takes_several(option) and not isinstance(value, tuple) else value


def _problem_of(context: typer.Context, option: Any, value: Any) -> str:
    """Why an option would refuse a value of a file: only here it is known that it comes from one; empty if not."""
    if isinstance(value, tuple) and not _takes_several(option):
        return f"one value is wanted, not {len(value)}"
    try:
        option.process_value(context, _as_taken(option, value))
    except (typer.BadParameter, TypeError, ValueError) as error:
        return refused_values.problem_of(error, option)
    return ""


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    hint = (_placed(error, context) or f"See: {context.command_path} --help") if context is not None else ""
    variable = _variable_of(error, context)
    _print_error(
        refused_values.message_of(error),
        f"The value comes from the environment variable {variable}." if variable else hint,
    )
    return 2


def _placed(error: typer.TyperException, context: Any) -> str:
    """Where an option belongs that a command does not take; empty where it is none of the program's own."""
    name, root = getattr(error, "option_name", None), context.find_root()
    known = (param for param in root.command.params if context is not root and name in param.opts)
    return next((f"It stands before the command: {root.info_name} {name} {param.metavar or ''} {context.info_name} …"
                 for param in known), "")  # fmt: skip


def _variable_of(error: typer.TyperException, context: Any) -> str:
    """The environment variable that a refused value comes from; empty where it comes from elsewhere."""
    param = getattr(error, "param", None)
    if context is None or param is None:
        return ""
    source = context.get_parameter_source(param.name)
    if source is None or source.name != "ENVIRONMENT":
        return ""
    names = [param.envvar] if isinstance(param.envvar, str) else param.envvar or ()
    return next((name for name in names if name in os.environ), "")


def _print_error(message: str, fix: str) -> None:
    talk = console(stderr=True, urgent=True)
    try:
        talk.print(plain("ERROR ", "bold red") + plain(message))
        if fix:
            talk.print(plain("  ") + plain(fix))
    except OSError:  # a full disk under the errors: the exit status tells
        starting.silence(sys.stderr.fileno())


def _bug(error: Exception, arguments: list[str]) -> int:
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ckptman-bug-", suffix=".log", delete=False, errors="backslashreplace"
        ) as log:
            log.write(f"ckptman {ckptman.__version__}, Python {sys.version}\n{arguments!r}\n\n")
            log.write("".join(traceback.format_exception(error)))
        where = f"The details are in {log.name}; please report them."
    except OSError:
        where = "The details could not be saved."
    _print_error(f"this is a fault in ckptman: {type(error).__name__}: {error}", where)
    return 3
