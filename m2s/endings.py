"""How every command ends: errors in one line, exit statuses. Light: it loads neither PyTorch nor transformers.

| | exit status | on stderr |
|---|---|---|
| success | 0 | |
| some inputs failed, or a check found problems | 1 | a line each |
| an error that the user can mend; a wrong flag too (argparse's status is 2) | 1 | `NAME: error: …`, one line |
| a bug | 1 | its traceback |
| Ctrl-C | 130 | `NAME: interrupted; …`, one line |
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

INTERRUPTED = "interrupted; run the same command again to continue"


class UsageError(ValueError):
    """A request that cannot be carried out; the message is for the user."""


class OneLineErrors:
    """Makes an argparse parser raise an error instead of ending the process."""

    prog: str

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help lists all flags)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Says which flags are required, and the default of each other flag unless its help text does."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if not action.option_strings:
            return text
        if action.required:
            return f"{text} (required)"
        if default in (None, False, argparse.SUPPRESS) or default == [] or "default" in text:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        return f"{text} (default: {'on' if default is True else shown})".replace("%", "%%")


def ending(name: str, command: Callable[[], int | None], debug: bool = False) -> int | str | None:
    """Call a command, and give what `SystemExit` takes: the command's exit status, or its error in one line.

    With `debug`, an error of the user keeps its traceback as a bug does.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print(f"{name}: {INTERRUPTED}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug or not can_be_mended(error):
            raise
        return f"{name}: error: {' '.join(message_of(error).split())}"


def can_be_mended(error: Exception) -> bool:
    """Whether the user can mend the error; any other is a bug."""
    if isinstance(error, (OSError, ValueError, ImportError)):
        return True
    from modeling_m2s.errors_m2s import USER_ERRORS

    return isinstance(error, USER_ERRORS)


def message_of(error: Exception) -> str:
    """An error's message; for a file, its path and the reason, without the number that the system has for it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def load_library(name: str) -> None:
    """Import the library, which takes seconds; Ctrl-C then ends the process at once.

    An exception would not do: it aborts the process if it is raised while a C++ library loads.
    """
    with _ends_at_once(name):
        import modeling_m2s  # noqa: F401


@contextlib.contextmanager
def _ends_at_once(name: str) -> Iterator[None]:
    def end(*_: object) -> None:
        os.write(sys.stderr.fileno(), f"{name}: {INTERRUPTED}\n".encode())
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
