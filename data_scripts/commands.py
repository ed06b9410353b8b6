"""How every script of this folder reads its flags and ends."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from transformers import HfArgumentParser

from modeling_m2s.storage_m2s import StorageError
from modeling_m2s.video_m2s import VideoError


def run_command(
    name: str, kinds: type | tuple[type, ...], run: Callable[..., Any], argv: Sequence[str] | None = None
) -> None:
    """Fill the dataclasses `kinds` from flags and call `run` with them.

    What a user can mend ends in one line on stderr and exit status 1, Ctrl-C in 130; both keep what is done. `run`
    may return an exit status.
    """
    parser = HfArgumentParser(kinds, prog=f"python -m data_scripts.{name}")
    try:
        status = run(*parser.parse_args_into_dataclasses(None if argv is None else list(argv)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (OSError, ValueError, StorageError, VideoError) as error:
        raise SystemExit(f"{name}: error: {' '.join(str(error).split())}") from None
    if status:
        sys.exit(status)
