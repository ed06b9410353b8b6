"""Training on the Hub: the model pushed with its card when a run ends, checkpoints pushed and gone on from.

Runs are the real command, in processes that know the loopback Hub. Whatever was downloaded, a run that goes on ends in
the bytes of one that nothing disturbed, and no pickle of a repository runs.
"""

import json
import pickle
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_runs import ForkedRuns
from hub_server import Hub, commit_hash
from moco_world import write_pairs, write_shots
from test_push import Poison

from modeling_m2s.cards_m2s import model_card

FLAGS = {"batch_size": 4, "queue_size": 8, "max_steps": 3, "shots_per_scene": 3, "log_steps": 1, "num_workers": 0}
FLAGS |= {"batch_norm": True, "checkpoint_steps": 1}
STEP = "train.moco.loop:Training.step"


class Bench:
    """Runs of train_moco on one catalog, with one Hub."""

    def __init__(self, folder: Path, model: Path, hub: Hub):
        self.folder, self.model, self.hub = folder, model, hub
        environment = {**hub.environment(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "cache")}
        self.forked = ForkedRuns.start("train.train_moco", "train.moco.training", folder, **environment)

    def run(self, output: str, *flags: str, **how) -> tuple[int, str, str]:
        words = {"model": self.model, "output": self.folder / output, **FLAGS}
        words |= {name: self.folder / name for name in ("pairs", "shots")}
        argv = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
        status, out, err = self.forked.run([*argv, *flags], **how)
        told = [line for line in err.splitlines() if "error:" in line or "Traceback" in line]
        return status, out, "\n".join(told)

    def weights(self, output: str) -> bytes:
        return (self.folder / output / "model/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def bench(tiny_folder, tmp_path_factory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    write_shots(folder / "shots")
    write_pairs(folder / "pairs")
    with Hub() as hub:
        bench = Bench(folder, tiny_folder, hub)
        yield bench
        bench.forked.stop()


def test_a_run_goes_on_from_its_pushed_checkpoint_and_pushes_its_model_and_card(bench):
    assert bench.run("whole")[0] == 0
    share = ["--push-to-hub", "someone/moco", "--private", "--push-checkpoints"]
    assert bench.run("killed", *share, die_at=(STEP, 3))[0] == -signal.SIGKILL
    pushed = bench.hub.revisions["someone/moco", "checkpoints"]
    assert {path.rpartition("/")[0] for path in pushed} == {"", "checkpoints/step-00000002"}
    assert "someone/moco" in bench.hub.private and bench.hub.repos["someone/moco"] == {}

    status, out, told = bench.run("resumed", "--push-to-hub", "someone/moco", "--resume", "someone/moco")
    assert (status, told) == (0, "") and "/someone/moco/commit/" in out
    assert bench.weights("resumed") == bench.weights("whole")
    steps = [json.loads(line)["step"] for line in (bench.folder / "resumed/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    files, model = bench.hub.repos["someone/moco"], bench.folder / "resumed/model"
    assert files["model.safetensors"] == bench.weights("resumed")
    assert files["README.md"].decode() == str(model_card(model, "someone/moco")) == (model / "README.md").read_text()
    assert {"training.json", "results.json", "recipe.json", "modeling_m2s.py"} <= files.keys()
    assert not [path for path in files if "checkpoints" in path]

    first = [commit for repo, commit in bench.hub.revisions if repo == "someone/moco" and len(commit) == 40]
    one = next(
        each for each in first if "checkpoints/step-00000001/state.json" in bench.hub.revisions["someone/moco", each]
    )
    assert bench.run("pinned", "--resume", f"someone/moco@{one}")[0] == 0
    assert bench.weights("pinned") == bench.weights("whole")


def test_a_run_goes_on_in_a_folder_without_checkpoints_and_with_the_same_model_elsewhere(bench, tmp_path):
    """A start that forgot --resume left a recipe; a kill left half a download; the model lies in another folder."""
    assert bench.run("pushed-once", "--push-to-hub", "someone/elsewhere", "--push-checkpoints")[0] == 0
    assert bench.run("forgot", die_at=(STEP, 1))[0] == -signal.SIGKILL
    assert (bench.folder / "forgot/recipe.json").exists() and not (bench.folder / "forgot/checkpoints").exists()
    half = bench.folder / "forgot/checkpoints/step-00000003.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    elsewhere = shutil.copytree(bench.model, tmp_path / "elsewhere" / bench.model.name)
    flags = ["--resume", "someone/elsewhere", "--model", str(elsewhere)]
    status, out, told = bench.run("forgot", *flags, die_at=(STEP, 1))
    assert (status, told) == (0, "") and "goes on from step-00000003 of someone/elsewhere, commit " in out
    assert bench.weights("forgot") == bench.weights("pushed-once")


def test_what_cannot_be_gone_on_from_is_told(bench):
    assert bench.run("pushed", "--push-to-hub", "someone/told", "--push-checkpoints")[0] == 0
    for flags, told in (
        (["--resume", "someone/told", "--temperature", "0.5"], "temperature is 0.07 there, 0.5 now"),
        (["--resume", "someone/nothing"], "resume someone/nothing: no checkpoint could be downloaded ("),
        (["--resume", "someone/told@main"], "resume someone/told@main: holds no checkpoint; train with --push-to-hub"),
        (["--push-checkpoints"], "--push-checkpoints needs --push-to-hub USER/NAME"),
        (["--push-to-hub", "some one"], "'some one' is no name of a repository"),
    ):
        status, _, found = bench.run("refused", *flags)
        assert status == 1 and told in found and found.count("\n") == 0, found
    assert not (bench.folder / "refused/checkpoints").exists() and not (bench.folder / "refused/recipe.json").exists()


def test_a_poisoned_checkpoint_is_refused_and_does_not_run(bench, tmp_path):
    assert bench.run("healthy", "--push-to-hub", "someone/poison", "--push-checkpoints")[0] == 0
    poison = pickle.dumps(Poison(tmp_path / "trace"))
    files = bench.hub.revisions["someone/poison", "checkpoints"]
    place = "checkpoints/step-00000003"
    state = json.loads(files[f"{place}/state.json"])
    pickles = [name for name in state["files"] if name.endswith((".pkl", ".bin"))]
    assert len(pickles) >= 3
    for name in pickles:
        files[f"{place}/{name}"] = poison
        state["files"][name] = len(poison)
    files[f"{place}/state.json"] = json.dumps(state).encode()
    bench.hub.revisions["someone/poison", commit_hash(files)] = files
    status, _, told = bench.run("poisoned", "--resume", "someone/poison")
    assert status == 1 and "none can be loaded" in told
    assert not (tmp_path / "trace").exists()


def test_a_hub_that_does_not_take_it_costs_no_training(bench):
    bench.hub.refused["hf_reader"] = 403
    share = ["--push-to-hub", "someone/refused", "--push-checkpoints"]
    status, out, told = bench.run("refused-push", *share, environment={"HF_TOKEN": "hf_reader"})
    assert status == 1 and "someone/refused: the Hub refuses the token (403)" in told
    assert out.count("was not pushed, training goes on: ") == 3
    assert (bench.folder / "refused-push/model/README.md").exists()
    status, out, told = bench.run("refused-push", *share)  # the same command pushes what is there
    assert status == 0 and bench.hub.repos["someone/refused"]["model.safetensors"] == bench.weights("refused-push")
