"""Reads the command line and runs a verb, such as embed; `VERBS` has all of them."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from m2s import app, embed, export, export_model, info, push, scenes, search, tag, words
from m2s.endings import HelpFormatter, OneLineErrors, ending, load_library

VERBS = {
    "embed": embed,
    "search": search,
    "words": words,
    "scenes": scenes,
    "tag": tag,
    "export": export,
    "info": info,
    "app": app,
    "push": push,
    "export-model": export_model,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status, as `m2s.endings` has it."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        options = build_parser().parse_args(given)
        # PyTorch reads this when it loads. By default, a model's threads keep their cores busy while they wait for each
        # other; where decoders need those cores as well, the model then takes up to eight times the processor time.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        load_library("m2s")
        return options.run(options)

    status = ending("m2s", command, "--debug" in given)
    if isinstance(status, str):
        print(status, file=sys.stderr)
        return 1
    return status or 0


class Parser(OneLineErrors, argparse.ArgumentParser):
    pass


def build_parser() -> Parser:
    parser = Parser(prog="m2s", description="Scenes of films: embed them, search them.")
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for name, verb in VERBS.items():
        described = f"{verb.HELP[0].upper()}{verb.HELP[1:]}."
        command = commands.add_parser(
            name, parents=[common], help=verb.HELP, description=described, formatter_class=HelpFormatter
        )
        command.set_defaults(run=verb.run)
        verb.add_arguments(command)
    return parser


class Version(argparse.Action):
    """Prints the version of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"m2s {importlib.metadata.version('movies2scenes')}")
        parser.exit()
