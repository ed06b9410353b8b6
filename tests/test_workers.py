"""Every input has its outcome, whatever happens to the process that works on it, and no process outlives its run."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modeling_m2s.workers_m2s import Outcome, run_isolated

PRELOAD = ("modeling_m2s.workers_m2s", "pytest")


def run(function: Callable, inputs: list[tuple], num_workers: int = 2, report=None) -> dict[str, Outcome]:
    """All outcomes by key; the inputs' keys are "0", "1", …"""
    keyed = [(str(key), arguments) for key, arguments in enumerate(inputs)]
    outcomes = list(run_isolated(function, keyed, num_workers, report, PRELOAD))
    assert sorted(outcome.key for outcome in outcomes) == sorted(key for key, _ in keyed)
    return {outcome.key: outcome for outcome in outcomes}


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; a minute is long enough for all of them."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def is_alive(pid: int) -> bool:
    """Whether a process runs: it exists and has not ended unnoticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def square(number: int, report: Callable) -> int:
    return number * number


@pytest.mark.parametrize("num_workers", [1, 2, 11])
def test_every_input_has_its_result(num_workers):
    outcomes = run(square, [(number,) for number in range(7)], num_workers)
    assert outcomes == {str(number): Outcome(str(number), value=number**2) for number in range(7)}


def test_no_inputs_no_outcomes():
    assert run(square, []) == {}


@pytest.mark.parametrize("num_workers", [0, -1])
def test_no_workers_are_refused(num_workers):
    with pytest.raises(ValueError, match=f"num_workers={num_workers} must be at least 1"):
        run(square, [(1,)], num_workers)


class TwoPartError(Exception):
    """An exception that cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, first: str, second: str):
        super().__init__(first + second)


ERRORS = [
    (ValueError("of two\n   lines\n"), "of two lines"),
    (ValueError(), "ValueError"),
    (KeyError("name"), "'name'"),
    (FileNotFoundError(2, "No such file", "a.mp4"), "[Errno 2] No such file: 'a.mp4'"),
    (TwoPartError("a", "b"), "ab"),
]


def fail(index: int, report: Callable) -> None:
    raise ERRORS[index][0]


def test_exceptions_become_errors_in_one_line():
    outcomes = run(fail, [(index,) for index in range(len(ERRORS))])
    for (error, text), outcome in zip(ERRORS, map(outcomes.get, sorted(outcomes)), strict=True):
        assert (outcome.error, outcome.error_type, outcome.value) == (text, type(error).__name__, None)
        assert outcome.traceback.startswith("Traceback") and "raise ERRORS[index][0]" in outcome.traceback


DEATHS = {
    "was killed by SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "was killed by SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "ended with exit status 3": lambda: os._exit(3),
    "ended with exit status 4": lambda: sys.exit(4),
    "ended with exit status 0": lambda: os._exit(0),
}


def die_at(victim: int, number: int, cause: str, report: Callable) -> int:
    report(0.5)
    if number == victim:
        DEATHS[cause]()
    return number


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("cause", DEATHS)
def test_a_death_costs_one_input(cause, num_workers):
    outcomes = run(die_at, [(2, number, cause) for number in range(5)], num_workers)
    assert outcomes.pop("2") == Outcome("2", error=f"the worker process {cause}")
    assert outcomes == {key: Outcome(key, value=int(key)) for key in "0134"}


def die_speaking(number: int, report: Callable) -> int:
    report(os.getpid())
    if number == 1:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        report(bytes(10**7))
    return number


def test_a_death_in_the_middle_of_a_message_costs_one_input():
    """Nobody listens until it has died, so most of its message is still to be sent."""

    def wait_for_death(key: str, pid: int) -> None:
        if key == "1":
            wait_until(lambda: not is_alive(pid))

    outcomes = run(die_speaking, [(0,), (1,), (2,)], 1, wait_for_death)
    assert outcomes["1"].error == "the worker process was killed by SIGALRM"
    assert [outcomes[key].value for key in "02"] == [0, 2]


def ignore_interrupts(report: Callable) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "went on"


def test_interrupts_are_left_to_the_parent():
    assert run(ignore_interrupts, [()])["0"].value == "went on"


def report_thirds(name: str, report: Callable) -> None:
    for third in range(3):
        report((name, third / 3))


def test_reports_arrive_in_order():
    reports: dict[str, list] = {"0": [], "1": [], "2": []}
    run(report_thirds, [("a",), ("b",), ("c",)], 2, lambda key, share: reports[key].append(share))
    assert reports == {key: [(name, 0), (name, 1 / 3), (name, 2 / 3)] for key, name in zip("012", "abc", strict=True)}


class Unreadable:
    """Pickles, and raises where it is unpickled."""

    def __reduce__(self):
        return int, ("not a number",)


RESULTS = {
    "lambda": (lambda: lambda: None, "pickle"),
    "lock": (threading.Lock, "pickle"),
    "unreadable": (Unreadable, "invalid literal for int"),
}


def return_what_cannot_be_sent(name: str, by_report: bool, report: Callable) -> object:
    result = RESULTS[name][0]() if name in RESULTS else name
    if by_report:
        report(result)
    return result


@pytest.mark.parametrize("by_report", [False, True])
@pytest.mark.parametrize("name", RESULTS)
def test_what_cannot_be_sent_is_an_error(name, by_report):
    outcomes = run(return_what_cannot_be_sent, [("first", by_report), (name, by_report), ("last", by_report)], 1)
    assert RESULTS[name][1] in outcomes["1"].error
    assert outcomes["1"].error_type and outcomes["1"].traceback
    assert (outcomes["0"].value, outcomes["2"].value) == ("first", "last")


def count_up(num_bytes: int, report: Callable) -> bytes:
    return bytes(range(251)) * (num_bytes // 251)


def test_large_results_arrive_whole():
    outcomes = run(count_up, [(50_000_000,), (1000,)])
    assert outcomes["0"].value == count_up(50_000_000, print)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_inputs_are_drawn_as_workers_become_free(num_workers):
    """An input is drawn when its process starts, so this also counts processes."""
    drawn = []

    def draw() -> Iterator[tuple[str, tuple]]:
        for number in range(7):
            drawn.append(number)
            yield str(number), (number,)

    for finished, _ in enumerate(run_isolated(square, draw(), num_workers, preload=PRELOAD), 1):
        assert len(drawn) <= finished + num_workers
    assert len(drawn) == 7


def leave_file(path: str, report: Callable) -> None:
    Path(path).touch()


def test_the_next_input_is_worked_on_while_an_outcome_is(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    outcomes = run_isolated(leave_file, [(path.name, (str(path),)) for path in paths], 1, preload=PRELOAD)
    with contextlib.closing(outcomes):
        assert next(outcomes).key == "a"
        wait_until(paths[1].exists)


def meet(folder: str, name: str, others: list[str], report: Callable) -> None:
    (Path(folder) / name).touch()
    wait_until(lambda: all((Path(folder) / other).exists() for other in others))


def test_workers_work_side_by_side(tmp_path):
    names = ["a", "b", "c"]
    for outcome in run(meet, [(str(tmp_path), name, names) for name in names], 3).values():
        assert outcome.error is None


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.glob("[0-9]*")]


def sleep(folder: str, name: str, report: Callable) -> None:
    """Leave a file of the process's id; the worker "a" ends when there are two of them, others would sleep on."""
    (Path(folder) / str(os.getpid())).touch()
    report(0.0)
    if name == "a":
        wait_until(lambda: len(pids(Path(folder))) == 2)
    else:
        time.sleep(600)


class BrokenOff(Exception):
    """Raised where the run is broken off."""


@pytest.mark.parametrize("where", ["consumer", "report", "inputs"])
def test_a_run_that_is_broken_off_leaves_no_process(where, tmp_path):
    def break_off_if(here: str) -> None:
        if here == where:
            wait_until(lambda: len(pids(tmp_path)) == 2)
            raise BrokenOff

    def draw() -> Iterator[tuple[str, tuple]]:
        for name in "ab":
            yield name, (str(tmp_path), name)
        break_off_if("inputs")

    outcomes = run_isolated(sleep, draw(), 3, lambda key, share: break_off_if("report"), PRELOAD)
    with pytest.raises(BrokenOff), contextlib.closing(outcomes):
        assert next(outcomes).key == "a"
        break_off_if("consumer")
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


INTERRUPTED_START = """
import multiprocessing.forkserver, signal
from modeling_m2s.workers_m2s import run_isolated

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores it

def connect_then_ctrl_c(*arguments, connect=multiprocessing.forkserver.connect_to_new_process):
    connected = connect(*arguments)
    signal.raise_signal(signal.SIGINT)
    return connected

multiprocessing.forkserver.connect_to_new_process = connect_then_ctrl_c
try:
    list(run_isolated(dict, [("a", ())], 1))
except KeyboardInterrupt:
    print("interrupted", len(multiprocessing.active_children()))
"""


def test_ctrl_c_while_a_worker_starts_is_quiet_and_leaves_no_process():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_START], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("interrupted 0\n", "")


SLOW_IMPORT = """
import os, time
from pathlib import Path

here = Path(__file__).parent
(here / "importing").write_text(str(os.getpid()))
while not (here / "go on").exists():
    time.sleep(0.01)

def parent(report):
    return os.getppid()
"""
WARMED_UP = """
import os, signal, time
from pathlib import Path
from modeling_m2s.workers_m2s import run_isolated, warm_up

if __name__ == "__main__":
    here = Path(__file__).parent
    warm_up(("slow_import",))
    while not (server := (here / "importing").read_text() if (here / "importing").exists() else ""):
        time.sleep(0.01)
    os.kill(int(server), signal.SIGINT)
    (here / "go on").touch()
    from slow_import import parent
    outcome, = run_isolated(parent, [("a", ())], 1, preload=("slow_import",))
    print(outcome.value == int(server))
"""


def test_workers_come_from_the_server_that_was_warmed_up_whatever_ctrl_c_reached_it(tmp_path):
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    (tmp_path / "main.py").write_text(WARMED_UP)
    paths = os.pathsep.join([str(Path(__file__).parent.parent), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, tmp_path / "main.py"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def run_sleepers(folder: str) -> None:
    for _ in run_isolated(sleep, [("b", (folder, "b")), ("c", (folder, "c"))], 2, preload=PRELOAD):
        pass


def test_workers_end_with_a_killed_parent(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    parent = context.Process(target=run_sleepers, args=(str(tmp_path),))
    parent.start()
    wait_until(lambda: len(pids(tmp_path)) == 2)
    assert all(map(is_alive, pids(tmp_path)))
    parent.kill()
    parent.join()
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def hang(seconds: float, pause: float, report: Callable) -> str:
    """Work for so long, with a sign of life after every pause."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(pause)
        report(0.0)
    return "done"


def test_a_silent_worker_is_given_up_and_a_slow_one_is_not():
    inputs = [("hung", (1e9, 1e9)), ("slow", (6.0, 0.2)), ("next", (0.1, 0.1))]
    outcomes = {o.key: o for o in run_isolated(hang, inputs, 2, preload=PRELOAD, max_silence=4.0)}
    assert outcomes["hung"].error == "the worker process was silent for 4 s"
    assert outcomes["slow"].value == outcomes["next"].value == "done"
