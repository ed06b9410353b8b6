"""Kill every stage at random moments, again and again, and compare what it ends with to an undisturbed run.

    python -m tests.kill_stages --kills 1000 --seed 0        about a second a kill and two for each comparison

Stages run as forks of this process, which has imported them, on a film world of six films. One film is broken. A killed
stage is started again in what it left: to be killed again, or, one time in three, to end; its files must then be those
of the undisturbed run, byte for byte. Workers are not killed: they end by themselves, maybe after the next run has
begun. Prints a line for each comparison and a table; the exit status is 1 if any differed.
"""

import argparse
import collections
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
sys.path.insert(0, str(Path(__file__).parent))

import datasets
from forked_runs import end_like_the_command
from test_detect_shots import LINES, write_movienet
from trees import tree

from modeling_m2s.workers_m2s import run_isolated

WORK = [
    "film_world.making",
    "catalog.building",
    "shots.detection",
    "features.extraction",
    "similarity.films",
    "mining.films",
]
MODULES = [*(f"data_scripts.{name}" for name in WORK), "modeling_m2s.index_m2s"]
SIZE = "--num-films 6 --film-seconds 30 --width 128 --height 72"
# Each stage's module and flags; {name} is the undisturbed output of a stage. The order is that of their inputs.
STAGES = {
    "world": ("data_scripts.make_film_world", f"--output {{output}} {SIZE} --workers 2"),
    "keyframes": ("data_scripts.make_film_world", f"--output {{output}} {SIZE} --workers 2 --keyframes-only"),
    "catalog": (
        "data_scripts.make_catalog",
        "--videos {inputs}/videos --metadata {world}/metadata --output {output}/movies",
    ),
    "shots": (
        "data_scripts.detect_shots",
        "--movies {catalog}/movies --output {output}/shots --min-shot-frames 5 --workers 2",
    ),
    "movienet": (
        "data_scripts.detect_shots",
        "--keyframes {inputs}/images --shot-lists {inputs}/lists --output {output}/shots --workers 2",
    ),
    "features": ("data_scripts.extract_features", "--shots {shots}/shots --output {output}/shot_features"),
    "similar": (
        "data_scripts.similar_movies",
        "--movies {catalog}/movies --shots {shots}/shots --sources genre --top-k 2 --output {output}/similar_movies",
    ),
    "pairs": (
        "data_scripts.mine_scene_pairs",
        "--features {features}/shot_features --similar {similar}/similar_movies --space features "
        "--output {output}/scene_pairs",
    ),
    "index": ("m2s.main", "embed {inputs}/videos --output {output} --shots-per-scene 3 --workers 2"),
}
FAILS = {"shots", "index"}  # the stages that read the broken film


@dataclass
class Stages:
    """The stages in a folder: inputs, undisturbed outputs in `whole`, outputs of killed runs in `killed`."""

    folder: Path

    def start(self, name: str, output: Path) -> int:
        """Start a stage as a process of its own and return its id."""
        pid = os.fork()
        if not pid:
            os.setsid()
            # The server of workers is this script's child, not the stage's, which therefore must not wait for it.
            forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
            for stream in (1, 2):
                os.dup2(os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            module, flags = STAGES[name]
            places = {"output": output, "inputs": self.folder / "inputs"}
            places |= {stage: self.folder / "whole" / stage for stage in STAGES}
            argv = [word.format(**places) for word in flags.split()]
            main = importlib.import_module(module).main
            end_like_the_command(lambda words: sys.exit(main(words)), argv)
        return pid

    def complete(self, name: str, output: Path) -> None:
        """Run a stage to its end; raises a RuntimeError if it ends otherwise than it should."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.start(name, output), 0)[1])
        if status != (name in FAILS):
            log = (self.folder / f"{name}.log").read_text()
            raise RuntimeError(f"{name} ended with status {status}: {log[-2000:]}")

    def prepare(self) -> dict[str, float]:
        """Run every stage undisturbed; returns how many seconds each took."""
        inputs, seconds = self.folder / "inputs", {}
        write_movienet(inputs, {f"tt000000{n}": LINES for n in range(6)})
        for name in STAGES:
            started = time.monotonic()
            self.complete(name, self.folder / "whole" / name)
            seconds[name] = time.monotonic() - started
            if name == "world":
                shutil.copytree(self.folder / "whole/world/videos", inputs / "videos")
                (inputs / "videos/tt9000003.mp4").write_bytes(b"no film")
        return seconds

    def kill(self, name: str, after: float) -> bool:
        """Start a stage and kill it after some seconds; returns whether it was still running."""
        pid = self.start(name, self.folder / "killed" / name)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        was_running = os.waitpid(pid, 0)[1] == signal.SIGKILL
        start_server()
        return was_running

    def differences(self, name: str) -> list[str]:
        """Complete a killed stage and return the files that differ from the undisturbed run's; then start anew."""
        output = self.folder / "killed" / name
        self.complete(name, output)
        found, expected = tree(output), tree(self.folder / "whole" / name)
        shutil.rmtree(output)
        return [path for path in sorted(found.keys() | expected.keys()) if found.get(path) != expected.get(path)]


def wait_for_server(report) -> None:
    """Ends when the server of workers has imported the stages, so that their times are those of their work."""


def start_server() -> None:
    """Make sure that the server of workers runs. It ends if a stage is killed while it asks for a worker."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(EOFError, OSError):
            (outcome,) = run_isolated(wait_for_server, [("", ())], 1, preload=tuple(MODULES))
            if not outcome.error:
                return
        time.sleep(0.2)  # a server that is ending still counts as running
    raise RuntimeError("the server of workers does not start")


def kill_stages(folder: Path, kills: int, seed: int) -> int:
    """Kill stages so many times and return how many comparisons failed."""
    for module in MODULES:
        importlib.import_module(module)
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    start_server()
    stages, generator = Stages(folder), random.Random(seed)
    seconds = stages.prepare()
    print("seconds undisturbed: " + ", ".join(f"{name} {each:.1f}" for name, each in seconds.items()), flush=True)
    killed, compared, failed, unfinished = collections.Counter(), collections.Counter(), 0, set()
    while sum(killed.values()) < kills or unfinished:
        is_last = sum(killed.values()) >= kills
        name = min(unfinished) if is_last else generator.choice(list(STAGES))
        if not is_last:
            killed[name] += stages.kill(name, generator.uniform(0, seconds[name]))
            unfinished.add(name)
        if is_last or generator.random() < 1 / 3:
            differences = stages.differences(name)
            unfinished.discard(name)
            compared[name] += 1
            failed += bool(differences)
            said = f"DIFFERENT: {', '.join(differences)}" if differences else "equal"
            print(f"{sum(killed.values()):5d} kills   {name}: {said}", flush=True)
    print("\n".join(f"{name:10s} {killed[name]:5d} kills, {compared[name]:5d} comparisons" for name in STAGES))
    print(f"seed {seed}: {sum(killed.values())} kills, {sum(compared.values())} comparisons, {failed} different")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of stages and moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = kill_stages(Path(folder), options.kills, options.seed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
