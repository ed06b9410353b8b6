"""Runs of a command as forks of one process that has imported it, killed at a call that a test names.

python tests/forked_runs.py train.train_mil train.mil.training      what `ForkedRuns` starts; one request a line of
                                                                    standard input
"""

import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """How a run ended: exit status, minus the signal where one killed it, and what the first process wrote."""

    status: int
    out: str
    err: str


@dataclass
class ForkedRuns:
    """A command's `main`, run in a folder for files of its own; the module that does the work is imported before."""

    folder: Path
    server: subprocess.Popen

    @classmethod
    def start(cls, command: str, work: str, folder: Path, **environment: str) -> "ForkedRuns":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return cls(
            folder, subprocess.Popen([sys.executable, __file__, command, work], cwd=ROOT, env=environment, **pipes)
        )

    def run(
        self, argv: list, die_at: tuple[str, int] | None = None, ranks: int = 1, environment: dict | None = None
    ) -> Ended:
        """Run it on so many processes; all are killed when the last calls a function, `module:name`, the n-th time."""
        files = [str(self.folder / f"forked.{name}") for name in ("out", "err")]
        request = {"argv": list(map(str, argv)), "files": files, "die_at": die_at, "ranks": ranks}
        self.server.stdin.write(json.dumps({**request, "environment": environment or {}}) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        return Ended(status, *(Path(file).read_text() for file in files))

    def stop(self) -> None:
        self.server.stdin.close()
        self.server.wait()


def serve(main) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        children = [start(main, request, rank, port) for rank in range(request["ranks"])]
        statuses = []
        for child in reversed(children):
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if statuses[0] < 0:
                for other in children[: len(children) - len(statuses)]:
                    os.kill(other, signal.SIGKILL)
        print(next((status for status in statuses if status), 0), flush=True)


def start(main, request: dict, rank: int, port: str) -> int:
    """Fork one process of a run, with the environment that `accelerate launch` would give it."""
    child = os.fork()
    if not child:
        run_forked(main, request, rank, port)
    return child


def run_forked(main, request: dict, rank: int, port: str) -> NoReturn:
    for stream, path in zip((1, 2), request["files"], strict=True):
        os.dup2(os.open(path if not rank else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if request["ranks"] > 1:
        size = {name: str(request["ranks"]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        os.environ |= {**size, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= request["environment"]
    if request["die_at"] and rank == request["ranks"] - 1:
        die_at_call(*request["die_at"])
    end_like_the_command(main, request["argv"])


def end_like_the_command(main, argv: list[str]) -> NoReturn:
    """Run it and end this process as the interpreter would, without the second that it takes to clear its modules."""
    status = 0
    try:
        main(argv)
    except SystemExit as ending:
        status = ending.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def die_at_call(name: str, number: int) -> None:
    """Have this process killed when a function, named like `module:Class.method`, is called for the n-th time."""
    owner_name, _, attribute = name.replace(":", ".").rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    function, calls = getattr(owner, attribute), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, attribute, counted)


if __name__ == "__main__":
    command, _ = map(importlib.import_module, sys.argv[1:])
    serve(command.main)
