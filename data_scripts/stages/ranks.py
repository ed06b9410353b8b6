"""The processes that share a stage's work: one, or as many as `accelerate launch` started."""

import contextlib
import gc
import os
from collections.abc import Iterator
from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


@contextlib.contextmanager
def ranks() -> Iterator[PartialState]:
    """This process's place among the processes of a stage, which all leave together.

    Raises:
        ValueError: several processes were started that do not know of each other, and would all write the same.
    """
    state = PartialState(  # a process that is done waits for the slowest, up to the timeout
        cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(days=7)
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != state.num_processes:
        raise ValueError(
            f"WORLD_SIZE={started}, but this is one of num_processes={state.num_processes}; without GPUs use "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    yield state
    gc.collect()  # objects collected at interpreter exit can abort a process that still holds a process group
    state.wait_for_everyone()
    state.destroy_process_group()
