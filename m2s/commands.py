"""How the commands `python -m package.module` start: dataclasses filled from a YAML recipe and from flags.

    @dataclass
    class Arguments:
        output: Path = field(metadata={"help": "folder to write to"})
        whiten: bool = field(default=False, metadata={"help": "whiten the features"})

    def main(argv: list[str] | None = None) -> None:
        run_command("python -m package.module", Arguments, run, argv)

    def run(arguments: Arguments) -> None:
        from package.work import work  # what takes seconds to load is loaded after the flags are read

        work(arguments)

    python -m package.module recipe.yaml --output runs/a --whiten

A field `learning_rate` is the flag `--learning-rate`, or `--learning_rate`. A boolean field is a switch, `--whiten`; a
value may follow, as in `--whiten false`, and a field that is true by default has `--no-whiten` too.
"""

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from m2s.endings import HelpFormatter, OneLineErrors, UsageError, ending, load_library

Kinds = type | tuple[type, ...]


def run_command(
    prog: str,
    kinds: Kinds,
    run: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    unnamed: str | None = None,
) -> None:
    """Fill the dataclasses `kinds` from a recipe and flags, call `run` with them, and end as a command should.

    `m2s.endings` has the exit statuses; `--debug` shows the traceback of an error, and `--help` what the docstring of
    `run`'s module says. A module of a command imports only what its flags need, and `run` the rest, so that `--help`
    and the message about a wrong flag come at once.

    Args:
        prog: what the user types, such as `python -m train.train_mil`.
        kinds: dataclasses with a help text for each field; no two have a field of the same name.
        run: takes one instance of each, in their order; may return an exit status.
        argv: words after `prog`; by default those of the process.
        unnamed: a field whose flag may be left out, if its values come first.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = prog.removeprefix("python -m ")

    def command() -> int | None:
        arguments = parse(kinds, words, prog, unnamed, getattr(sys.modules.get(run.__module__), "__doc__", None))
        load_library(name)
        return run(*arguments)

    if status := ending(name, command, "--debug" in words):
        raise SystemExit(status)


def parse(
    kinds: Kinds,
    argv: Sequence[str],
    prog: str = "command",
    unnamed: str | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """One instance of each dataclass, from `[RECIPE.yaml] [--flag value ...]`; flags win over the recipe.

    In a recipe, `$NAME` stands for an environment variable, and a field without value keeps its default. `description`
    is the text above the flags that `--help` shows.

    Raises:
        UsageError: an unknown flag or field, a value of the wrong type, a recipe that cannot be read.
        ValueError: a dataclass refuses its values.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    names = {field.name for kind in kinds for field in fields(kind) if field.init}
    words = list(argv)
    if words and words[0].endswith((".yaml", ".yml")):
        words = [*_flags_of_recipe(Path(words[0]), names, _fields_of(words[1:])), *words[1:]]
    elif words and unnamed and not words[0].startswith("-"):
        words = [f"--{unnamed}", *words]
    found = vars(_parser(kinds, prog, unnamed, description).parse_args(words))
    return tuple(kind(**{field.name: found[field.name] for field in fields(kind) if field.init}) for kind in kinds)


class _Parser(OneLineErrors, HfArgumentParser):
    pass


def _parser(kinds: tuple[type, ...], prog: str, unnamed: str | None, description: str | None) -> ArgumentParser:
    first = f"[RECIPE.yaml | {unnamed.upper()}]" if unnamed else "[RECIPE.yaml]"
    usage = f"{prog} {first} [--flag value ...]"
    texts = {"prog": prog, "usage": usage, "description": description, "formatter_class": HelpFormatter}
    parser = _Parser(kinds, **texts, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for action in parser._actions:  # both spellings are read, one is shown
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        if action.const is True and action.nargs == "?":
            action.metavar = "true|false"
        if action.option_strings[0].startswith("--no-") and action.const is False:
            action.help = f"turn --{action.dest.replace('_', '-')} off"
    return parser


def _fields_of(flags: Sequence[str]) -> set[str]:
    """The fields that these flags set."""
    names = [word.removeprefix("--").partition("=")[0].replace("-", "_") for word in flags if word.startswith("--")]
    return {*names, *(name.removeprefix("no_") for name in names)}


def _flags_of_recipe(path: Path, names: set[str], overridden: set[str]) -> Iterator[str]:
    """A recipe as flags, without the fields that flags override."""
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(recipe, dict):
        raise UsageError(f"{path}: a recipe is a table of fields")
    if unknown := sorted(set(map(str, recipe)) - names):
        raise UsageError(f"{path}: no such field: {', '.join(unknown)}")
    for name, value in recipe.items():
        if name in overridden:
            continue
        if isinstance(value, dict):
            raise UsageError(f"{path}: {name} is a table; a field is a value or a list of values")
        if isinstance(value, list) and value:
            yield from (f"--{name}", *(_expanded(path, name, item) for item in value))
        elif value is not None and value != []:
            yield f"--{name}={_expanded(path, name, value)}"


def _expanded(path: Path, name: str, value: Any) -> str:
    """A value of a recipe with environment variables in place of `$NAME`; raises a UsageError if one is not set."""
    text = os.path.expandvars(str(value))
    if unset := re.search(r"\$(\w+|\{\w+\})", text):
        raise UsageError(f"{path}: {name}: {unset[0]} is not set in the environment; give --{name} to use it as it is")
    return text
