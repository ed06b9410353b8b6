"""Reads the command line and runs a verb: embed, search, info, app, push, export-model."""

import argparse
import contextlib
import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from m2s import app, embed, export_model, info, push, search
from m2s.shared import print_error

VERBS = {
    "embed": embed,
    "search": search,
    "info": info,
    "app": app,
    "push": push,
    "export-model": export_model,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 after an error or when a film failed, 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    with ends_at_once():
        import modeling_m2s  # noqa: F401
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("m2s: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if options.debug:
            raise
        ours = type(error).__module__.startswith("modeling_m2s")
        expected = ours or isinstance(error, (OSError, ValueError, ImportError))
        print_error(str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)")
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="m2s", description="Scenes of films: embed them, search them.")
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    for name, verb in VERBS.items():
        kind = getattr(verb, "FORMATTER", argparse.HelpFormatter)
        command = commands.add_parser(name, parents=[common], help=verb.HELP, formatter_class=kind)
        command.set_defaults(run=verb.run)
        verb.add_arguments(command)
    return parser


class Version(argparse.Action):
    """Prints the version of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"m2s {importlib.metadata.version('movies2scenes')}")
        parser.exit()


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Ctrl-C ends the process at once and quietly while the library loads, which takes seconds.

    An exception would not do: it aborts the process if it is raised while a C++ library loads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
