"""Run a function over many inputs, each in a process of its own, so that a crash in native code costs one input.

The standard pools lose all pending work when a worker is killed; here the input that killed it is reported and the
rest goes on. Processes are forked from a server that has the imports done, which takes milliseconds.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any


@dataclass
class Outcome:
    """The result of one input: `value`, or `error` in one line, with type and traceback if it was an exception."""

    key: str
    value: Any = None
    error: str | None = None
    error_type: str | None = None
    traceback: str | None = None


def run_isolated(
    function: Callable[..., Any],
    inputs: Iterable[tuple[str, tuple]],
    num_workers: int,
    report: Callable[[str, float], None] | None = None,
    preload: tuple[str, ...] = (),
    max_silence: float | None = None,
) -> Generator[Outcome, None, None]:
    """Call `function(*arguments, report=…)` for every `(key, arguments)`, at most `num_workers` at a time.

    Args:
        function: importable by name; its exceptions become errors of their input.
        inputs: keys name the inputs in the outcomes.
        num_workers: processes at a time. They go on while the caller works on an outcome, each until its input is done;
            a slow caller holds the inputs after that back.
        report: called here with (key, share done) when the function calls its own `report(share)`.
        preload: modules that the workers find imported.
        max_silence: seconds without a report after which a worker counts as hung and is killed.

    Yields:
        One `Outcome` per input, as they finish. Closing the iterator ends the workers.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers={num_workers} must be at least 1")
    context = _context(preload)
    queue = iter(inputs)
    running: dict[Connection, _Worker] = {}

    def start_workers() -> None:
        while len(running) < num_workers and (job := next(queue, None)) is not None:
            key, arguments = job
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(function, arguments, sender), daemon=True)
            with _ctrl_c_waits():  # a half-started one would print a traceback and not be ended below
                process.start()
                sender.close()
                running[receiver] = _Worker(key, process)

    try:
        start_workers()
        while running:
            for outcome in _next_outcomes(running, report, max_silence):
                start_workers()  # before the caller works on the outcome, so that no worker waits for the caller
                yield outcome
    finally:
        for receiver, worker in running.items():
            worker.process.kill()
            worker.end()
            receiver.close()


def _next_outcomes(
    running: "dict[Connection, _Worker]", report: Callable[[str, float], None] | None, max_silence: float | None
) -> Iterator[Outcome]:
    """Wait for messages and hand on reports. Workers that have ended, or hang, are taken out of `running`."""
    ready: Any = wait(list(running), timeout=None if max_silence is None else 1.0)
    for receiver in ready:
        worker = running[receiver]
        worker.last_heard = time.monotonic()
        try:
            kind, content = receiver.recv()
        except (EOFError, OSError):  # it died, perhaps in the middle of a message
            kind, content = "dead", None
        except Exception as error:  # what it sent cannot be unpickled
            kind, content = "failed", _describe(error)
            worker.process.kill()
        if kind == "report":
            if report:
                report(worker.key, content)
            continue
        del running[receiver]
        receiver.close()
        exit_code = worker.end()
        if kind == "done":
            yield Outcome(worker.key, value=content)
        elif kind == "failed":
            yield Outcome(worker.key, None, *content)
        else:
            yield Outcome(worker.key, error=_cause_of_death(exit_code))
    for receiver, worker in list(running.items()):
        if max_silence is not None and time.monotonic() - worker.last_heard > max_silence:
            worker.process.kill()
            worker.end()
            del running[receiver]
            receiver.close()
            yield Outcome(worker.key, error=f"the worker process was silent for {max_silence:g} s")


def warm_up(preload: tuple[str, ...]) -> None:
    """Import modules in the background, so that the first worker does not wait for them.

    Args:
        preload: the modules that `run_isolated` will be given.
    """
    if _context(preload).get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver, resource_tracker  # not on Windows

    resource_tracker.ensure_running()  # else the server starts it, which unblocks Ctrl-C
    # The server inherits the block; without it, Ctrl-C would break off the server's imports with a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _context(preload: tuple[str, ...]) -> Any:
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if preload and "forkserver" in methods:
        context.set_forkserver_preload(list(preload))
    return context


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C within the block takes effect at its end. Only the main thread needs this: it alone receives Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:  # None: not set by Python
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)


@dataclass
class _Worker:
    key: str
    process: Any
    last_heard: float = field(default_factory=time.monotonic)

    def end(self) -> int:
        """Wait for a process that has sent its last message, kill it after 10 s, and return its exit code."""
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _cause_of_death(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"the worker process was killed by {signal.Signals(-exit_code).name}"
    return f"the worker process ended with exit status {exit_code}"


def _work(function: Callable[..., Any], arguments: tuple, sender: Connection) -> None:
    # Ctrl-C reaches the whole process group; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        sender.send(("done", function(*arguments, report=lambda share: sender.send(("report", share)))))
    except Exception as error:
        with contextlib.suppress(BrokenPipeError):  # the parent was killed
            sender.send(("failed", _describe(error)))


def _describe(error: Exception) -> tuple[str, str, str]:
    text = " ".join(str(error).split()) or type(error).__name__
    return text, type(error).__name__, "".join(traceback.format_exception(error))


def end_with_parent(worker: int = 0) -> None:
    """End this process when its parent ends, in whatever way. Otherwise it would go on writing, or wait forever to hand
    over its work and hold the run's folder. A `DataLoader` takes this function as `worker_init_fn`."""
    parent = multiprocessing.parent_process()

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
