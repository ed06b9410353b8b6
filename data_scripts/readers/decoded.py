"""Decode frames ahead in worker processes while a model computes; every reader of frames uses this."""

import multiprocessing.queues
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from modeling_m2s.errors_m2s import USER_ERRORS, UserError
from modeling_m2s.workers_m2s import end_with_parent

SHARED_MEMORY = Path("/dev/shm")  # workers hand over tensors through it
READY_ITEMS = 2  # items that each worker has ready


def decoded(
    items: Dataset, order: Sequence[int], num_workers: int | None, device: torch.device, item_bytes: int = 0
) -> Iterator[Any]:
    """The items of a dataset in a given order, decoded ahead, in memory that a GPU can copy from while it computes.

    Args:
        num_workers: processes that decode; by default 1 for a model on the CPU, else this process's share of the
            cores, or fewer, so that their items fit into half of the free shared memory.
        item_bytes: size of an item.

    Raises:
        Exception: an item's own error, unchanged.
        UserError: a worker process was killed, or cannot hand over its items.
    """
    on_cpu = device.type == "cpu"
    if num_workers is None:
        num_workers = 1 if on_cpu else default_workers(item_bytes)
    loader = DataLoader(
        _Caught(items),
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        pin_memory=not on_cpu,
        prefetch_factor=READY_ITEMS if num_workers else None,
        worker_init_fn=_start_worker,
        collate_fn=_as_it_is,
    )
    try:
        for item in loader:
            if isinstance(item, Exception):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _worker_error("ended", str(error).splitlines()[0]) from error


def default_workers(item_bytes: int) -> int:
    """This process's share of the cores, or fewer, so that their items fit into half of the free shared memory."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = max(1, (os.cpu_count() or 2) // processes)
    if not item_bytes or not SHARED_MEMORY.exists():
        return cores
    fitting = shutil.disk_usage(SHARED_MEMORY).free // (2 * processes * READY_ITEMS * item_bytes)
    return min(cores, fitting)


def _start_worker(worker: int) -> None:
    end_with_parent()
    # The queue's thread would drop the item and go on, and the reader would wait for it forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _hand_over_error  # type: ignore[method-assign]


def _hand_over_error(queue: multiprocessing.queues.Queue, error: Exception, item: tuple[int, Any]) -> None:
    """Replace an item (its number, its value) that cannot be handed over by the reason, which needs no memory."""
    number, value = item
    if isinstance(value, UserError):
        os._exit(1)
    queue.put((number, _worker_error("cannot hand them over", " ".join(str(error).split()))))


def _worker_error(problem: str, reason: str) -> UserError:
    return UserError(
        f"a process that decodes frames {problem} ({reason}): memory or {SHARED_MEMORY} may be full; use a lower "
        "num_workers, or 0"
    )


class _Caught(Dataset):
    """Turns errors of the user into items, because an error raised in a worker arrives as the text of a traceback."""

    def __init__(self, items: Dataset):
        self.items = items

    def __getitem__(self, number: int) -> Any:
        try:
            return self.items[number]
        except USER_ERRORS as error:
            return error


def _as_it_is(item: Any) -> Any:
    return item
