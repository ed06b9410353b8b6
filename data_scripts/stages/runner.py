"""Run one function over films: in processes of this machine, or on a Ray cluster.

    --runner local --workers 8        eight films at a time, each in a process of its own
    --runner ray                      on the cluster of RAY_ADDRESS or of `ray start`, else on a Ray of this machine
    --job 3/16                        films 3, 19, 35, … only: one of 16 jobs that may run at once, on many machines

With both runners, a film that crashes its process is one film's failure, with the same message, so that a dataset's
bytes do not depend on where it was made. A lost machine costs only time.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_scripts.stages.runner_arguments import RunnerArguments
from modeling_m2s.workers_m2s import Outcome, run_isolated

ROOT = Path(__file__).parents[2]
# How often a film is tried elsewhere if its machine is lost or its Ray worker is killed for lack of memory.
MAX_RETRIES = 10


def run_films(
    function: Callable[..., Any],
    inputs: Iterable[tuple[str, tuple]],
    arguments: RunnerArguments,
    report: Callable[[str, float], None] | None = None,
    preload: tuple[str, ...] = (),
    max_silence: float | None = None,
) -> Generator[Outcome, None, None]:
    """Call `function(*arguments, report=…)` for every `(key, arguments)`, each in a process of its own.

    Args:
        function: importable by name, also on the machines of a cluster; its exceptions become errors of their input.
        inputs: keys name the inputs in the outcomes. Paths must be absolute and, on a cluster, the same everywhere.
        arguments: the runner and how many films it runs at a time.
        report: called with (key, share done), by the local runner only.
        preload: modules that the processes find imported.
        max_silence: seconds without a report after which a process counts as hung and is killed.

    Yields:
        One `Outcome` per input, as they finish. Closing the iterator ends the work.

    Raises:
        ValueError: Ray is asked for, but it is not installed, is already connected, or cannot be reached.
    """
    if arguments.runner == "ray":
        return _run_with_ray(function, inputs, arguments.workers, preload, max_silence)
    return run_isolated(function, inputs, arguments.workers or os.cpu_count() or 1, report, preload, max_silence)


def _run_with_ray(
    function: Callable[..., Any],
    inputs: Iterable[tuple[str, tuple]],
    workers: int,
    preload: tuple[str, ...],
    max_silence: float | None,
) -> Generator[Outcome, None, None]:
    with _ray() as ray:
        task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_run_one)
        queue, running = iter(inputs), {}
        while True:
            # The number of CPUs is asked for each time, because machines come and go.
            room = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(running) < room and (job := next(queue, None)) is not None:
                running[task.remote(function, job, preload, max_silence)] = job[0]
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            key = running.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:
                outcome = Outcome(key, error=f"given up by Ray: {' '.join(str(error).split())}")
            yield outcome


def _run_one(
    function: Callable[..., Any], job: tuple[str, tuple], preload: tuple[str, ...], max_silence: float | None
) -> Outcome:
    """A Ray task: one input in a child process, so that Ray loses a worker only when it loses a machine."""
    (outcome,) = run_isolated(function, [job], 1, None, (*preload, "ray"), max_silence)
    return outcome


@contextlib.contextmanager
def _ray() -> Iterator[Any]:
    """Ray, connected to a cluster or to one that is started here, with this checkout's code on its machines.

    The end of the connection ends its tasks. They are not cancelled first, because Ray 2.60 aborts the process when a
    task is cancelled at the moment when it completes.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default, or Ray warns
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"--runner ray needs Ray: pip install 'movies2scenes[ray]' ({error})") from error
    code = {
        "py_modules": [str(ROOT / name) for name in ("data_scripts", "m2s", "modeling_m2s")],
        "excludes": ["__pycache__", "*.safetensors"],
    }
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=code)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"Ray cannot be reached or started: {' '.join(str(error).split())}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
