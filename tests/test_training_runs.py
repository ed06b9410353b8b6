"""The folder of a training run: another recipe is refused, and whatever happens, a good checkpoint is left."""

import json
import os
import re
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from PIL import Image

from m2s.commands import parse
from modeling_m2s.storage_m2s import StorageError, exclusive, write_json
from modeling_m2s.version import __version__
from train.curves import draw_curves
from train.distillation.recipe import DistillationData, DistillationRecipe
from train.mil.recipe import MILData, MILRecipe
from train.runs import BestWeights, RunArguments, RunFolder, command_line, made_with

RECIPES = sorted((Path(__file__).parent.parent / "train/configs").glob("m2s_clip_*.yaml"))


DISTILLATION = (DistillationRecipe, DistillationData, RunArguments)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_ship_are_read_whole(recipe, monkeypatch):
    monkeypatch.setenv("M2S_ASSETS", "/assets")
    _, data, _ = parse(DISTILLATION, [str(recipe), "--teacher", "CLIP", "--output", "run"])
    assert data.teacher == "CLIP" and data.images[0].startswith("/assets/")
    assert all(path.startswith("/assets/") for path in data.videos)


@pytest.mark.parametrize("kind", [*DISTILLATION, MILRecipe, MILData], ids=lambda kind: kind.__name__)
def test_every_argument_has_a_help_text(kind):
    assert [f.name for f in fields(kind) if len(f.metadata.get("help", "").split()) < 3] == []


@pytest.mark.parametrize("name", ["checkpoint_steps", "log_steps"])
def test_steps_between_checkpoints_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        RunArguments(output=Path(), **{name: 0})


RECIPE = {"epochs": 3, "rate": 0.1, "names": ["a"], "place": None, "data": {"digest": "ab", "encoder": {"name": "x"}}}


@pytest.fixture
def accelerator() -> Accelerator:
    """One that prepared a model of one layer with Adam."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    accelerator.layer = torch.nn.Linear(3, 2)
    accelerator.prepare(accelerator.layer, torch.optim.Adam(accelerator.layer.parameters(), lr=0.1))
    return accelerator


def step(accelerator: Accelerator) -> torch.Tensor:
    """One step of training; returns the weights after it."""
    accelerator.layer.weight.square().sum().backward()
    accelerator._optimizers[0].step()
    accelerator._optimizers[0].zero_grad()
    return accelerator.layer.weight.detach().clone()


def checkpoints(run: RunFolder) -> list[str]:
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


def test_a_recipe_is_kept_and_another_refused(tmp_path, accelerator):
    RunFolder(tmp_path / "run", {**RECIPE, "names": ("a",)}, accelerator)
    assert json.loads((tmp_path / "run/recipe.json").read_text()) == RECIPE
    RunFolder(tmp_path / "run", RECIPE, accelerator)
    others = {
        "epochs is 3 there, 4 now": {"epochs": 4},
        "epochs is 3 there, 4 now; names is ['a'] there, ['a', 'b'] now": {"epochs": 4, "names": ["a", "b"]},
        "later is None there, True now": {"later": True},
        "data.encoder.name is 'x' there, 'y' now": {"data": {"digest": "ab", "encoder": {"name": "y"}}},
    }
    for message, change in others.items():
        with pytest.raises(StorageError) as error:
            RunFolder(tmp_path / "run", {**RECIPE, **change}, accelerator)
        assert str(error.value).startswith(f"{tmp_path}/run was made with other settings: {message}. Use")
    assert json.loads((tmp_path / "run/recipe.json").read_text()) == RECIPE


def test_a_recipe_that_is_none_is_refused(tmp_path, accelerator):
    (tmp_path / "recipe.json").write_text('{"epochs": ')
    with pytest.raises(StorageError, match=r"recipe\.json: not readable as JSON \(.*\)"):
        RunFolder(tmp_path, RECIPE, accelerator)


def test_a_folder_is_held_against_a_second_run(tmp_path, accelerator):
    run, second = (RunFolder(tmp_path, RECIPE, accelerator) for _ in range(2))
    with run.held(), pytest.raises(StorageError, match=f"{tmp_path}: another run is writing here"), second.held():
        pass
    with second.held(), pytest.raises(StorageError, match="another run"), exclusive(tmp_path):
        pass


def test_the_log_is_read_without_a_line_that_was_cut(tmp_path, accelerator):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    assert run.read_log() == []
    run.log(1, loss=0.25)
    run.log(2, loss=0.125, epoch=1)
    lines = [{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.125, "epoch": 1}]
    assert run.read_log() == lines
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert run.read_log() == lines


def test_without_a_checkpoint_a_run_begins_anew(tmp_path, accelerator):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    run.log(1, loss=1.0)
    weights = accelerator.layer.weight.detach().clone()
    (tmp_path / "checkpoints/step-00000002.tmp").mkdir(parents=True)  # a run that was killed while it wrote this
    assert not run.has_checkpoint()
    assert run.restore() == {"step": 0} and run.read_log() == []
    assert torch.equal(accelerator.layer.weight, weights)


def test_a_checkpoint_holds_what_the_next_step_needs(tmp_path, accelerator):
    """Weights, Adam's moments and the generator; the log is cut back to the step of the checkpoint."""
    run = RunFolder(tmp_path, RECIPE, accelerator)
    for number in (1, 2):
        step(accelerator)
        run.log(number, loss=float(number))
    run.save(2, seconds=1.5)
    drawn, after = torch.rand(3), [step(accelerator) for _ in range(3)]
    run.log(3, loss=3.0)
    torch.manual_seed(99)

    again = RunFolder(tmp_path, RECIPE, accelerator)
    assert again.has_checkpoint()
    assert again.restore() == {"step": 2, "seconds": 1.5}
    assert again.read_log() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]
    assert torch.equal(torch.rand(3), drawn)
    assert all(torch.equal(step(accelerator), weights) for weights in after)


def test_the_two_latest_complete_checkpoints_stay_and_the_latest_counts(tmp_path, accelerator):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    saved = []
    for number in (9, 10, 100):
        weights = step(accelerator)
        run.save(number)
        saved.append(f"step-{number:08d}")
        assert checkpoints(run) == saved[-2:]
    step(accelerator)
    left = tmp_path / "checkpoints/step-00000200.tmp"  # a run that was killed while it wrote this
    left.mkdir()
    write_json(left / "state.json", {"step": 200})
    (tmp_path / "checkpoints/step-00000009").mkdir()  # and while it removed this
    assert run.restore() == {"step": 100}
    assert torch.equal(accelerator.layer.weight, weights)
    run.save(200)
    assert checkpoints(run) == ["step-00000100", "step-00000200"] and run.restore() == {"step": 200}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def corrupt(path: Path) -> None:
    """Other bytes, as many."""
    path.write_bytes(bytes(value ^ 0x55 for value in path.read_bytes()))


DAMAGES = {
    "weights cut short": ("model.safetensors", cut, "model.safetensors has .* bytes instead of"),
    "random states cut short": ("random_states_0.pkl", cut, "random_states_0.pkl has .* bytes instead of"),
    "optimizer missing": ("optimizer.bin", Path.unlink, "No such file or directory: .*optimizer.bin"),
    "optimizer corrupt": ("optimizer.bin", corrupt, "."),
    "state cut short": ("state.json", cut, "."),
    "state missing": ("state.json", Path.unlink, "No such file or directory: .*state.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(damage, tmp_path, accelerator, capsys):
    """Weights, moments and random numbers are those of the older one; its steps are taken again, and saved again."""
    file, harm, reason = DAMAGES[damage]
    run = RunFolder(tmp_path, RECIPE, accelerator)
    for number in (1, 2, 3):
        step(accelerator)
        run.log(number, loss=float(number))
        run.save(number, seconds=number / 2)
        if number == 2:
            drawn = torch.rand(3)
            weights = accelerator.layer.weight.detach().clone()
            torch.manual_seed(5)
    after = [accelerator.layer.weight.detach().clone(), step(accelerator)]
    harm(tmp_path / "checkpoints/step-00000003" / file)
    assert run.restore() == {"step": 2, "seconds": 1.0}
    told = capsys.readouterr().out
    assert re.fullmatch(rf"{tmp_path}/checkpoints/step-00000003 cannot be loaded: .*{reason}.*\n", told), told
    assert torch.equal(torch.rand(3), drawn) and torch.equal(accelerator.layer.weight, weights)
    assert [line["step"] for line in run.read_log()] == [1, 2]
    assert torch.equal(step(accelerator), after[0])
    run.save(3)
    assert checkpoints(run) == ["step-00000002", "step-00000003"] and run.restore() == {"step": 3}
    assert torch.equal(step(accelerator), after[1])


def test_without_any_good_checkpoint_nothing_begins_by_itself(tmp_path, accelerator):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    run.log(1, loss=1.0)
    for number in (1, 2):
        run.save(number)
        cut(tmp_path / f"checkpoints/step-{number:08d}/model.safetensors")
    with pytest.raises(StorageError, match=r"checkpoints: none can be loaded \(model.safetensors .*\); remove them"):
        run.restore()
    assert len(run.read_log()) == 1


def test_a_checkpoint_of_another_network_is_refused_by_what_differs(tmp_path, accelerator):
    RunFolder(tmp_path, RECIPE, accelerator).save(1)
    other = Accelerator(cpu=True)
    other.free_memory()
    other.prepare(torch.nn.Linear(4, 2))
    with pytest.raises(StorageError, match=r"none can be loaded .*size mismatch for weight"):
        RunFolder(tmp_path, RECIPE, other).restore()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_never_saved(value, tmp_path, accelerator):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    run.save(1)
    weights = step(accelerator)
    run.save(2)
    with torch.no_grad():
        accelerator.layer.bias[1] = value
    with pytest.raises(ValueError, match=r"^after step 3, bias holds infinite values or NaN: training diverged"):
        run.save(3)
    assert run.restore() == {"step": 2} and torch.equal(accelerator.layer.weight, weights)
    assert accelerator.layer.bias.isfinite().all()
    run.save(3)
    assert checkpoints(run) == ["step-00000002", "step-00000003"]


def test_everything_of_a_checkpoint_is_on_disk_before_it_counts(tmp_path, accelerator, monkeypatch):
    """Files and folder are synced under the aside name, and only then renamed; then the folder above is synced."""
    run, events = RunFolder(tmp_path, RECIPE, accelerator), []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(f"rename {path.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    run.save(1)
    monkeypatch.undo()
    place = events.index("rename step-00000001.tmp")
    files = {path.name for path in (tmp_path / "checkpoints/step-00000001").iterdir()}
    assert len(files) > 3 and {*files, "step-00000001.tmp"} <= {*events[:place]}
    assert events[place + 1 :] == ["checkpoints"]


def test_another_number_of_processes_is_told(tmp_path, accelerator, capsys):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    run.save(1)
    run.restore()
    assert capsys.readouterr().out == ""
    path = tmp_path / "checkpoints/step-00000001/state.json"
    write_json(path, {**json.loads(path.read_text()), "processes": 2})
    assert run.restore() == {"step": 1}
    assert capsys.readouterr().out.startswith("this run goes on with 1 processes instead of 2: the same batches")


def test_the_best_weights_are_a_copy_that_checkpoints_hold(tmp_path, accelerator):
    best = BestWeights()
    accelerator.register_for_checkpointing(best)
    best.keep(accelerator.layer)
    kept = accelerator.layer.weight.detach().clone()
    step(accelerator)
    run = RunFolder(tmp_path, RECIPE, accelerator)
    run.save(1)
    best.keep(accelerator.layer)
    assert not torch.equal(best.weights["weight"], kept)
    run.restore()
    assert torch.equal(best.weights["weight"], kept)


class Notes(GeneralTracker):
    """A tracker that keeps what it gets."""

    name, requires_logging_directory = "notes", False

    def __init__(self):
        super().__init__()
        self.events = []

    @property
    def tracker(self):
        return self.events

    def start(self):
        self.events.append("start")

    def store_init_configuration(self, values):
        self.events.append(values)

    def log(self, values, step, **_):
        self.events.append((step, values))

    def finish(self):
        self.events.append("finish")


def test_trackers_get_the_recipe_and_the_log(tmp_path, accelerator):
    """While the folder is held; also when the run fails. The log stays in its file."""
    notes = Notes()
    run = RunFolder(tmp_path, RECIPE, accelerator, [notes])
    with pytest.raises(KeyError), run.held():
        run.log(7, loss=0.5, best=1)
        raise KeyError
    run.log(8, loss=0.25)
    simple = {
        "epochs": 3,
        "rate": 0.1,
        "names": '["a"]',
        "place": "null",
        "data.digest": "ab",
        "data.encoder.name": "x",
    }
    assert notes.events == ["start", simple, (7, {"loss": 0.5, "best": 1}), "finish"]
    assert [line["step"] for line in run.read_log()] == [7, 8]


def test_a_tracker_that_is_not_there_is_named(tmp_path, accelerator):
    with pytest.raises(ValueError, match="Unsupported logging capability: telegraph"):
        RunFolder(tmp_path, RECIPE, accelerator, ["telegraph"])
    installed = set(map(str, get_available_trackers()))
    absent = next(name for name in ("comet_ml", "dvclive", "aim", "swanlab") if name not in installed)
    with pytest.raises(ValueError, match=f"log_with names {absent}, which is not installed: pip install {absent}"):
        RunFolder(tmp_path, RECIPE, accelerator, [absent])
    assert not (tmp_path / "recipe.json").exists()


def test_records_name_versions_and_the_command(accelerator, monkeypatch):
    assert made_with(accelerator)["movies2scenes"] == __version__ and made_with(accelerator)["processes"] == 1
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_mil.py", "--output", "runs/a b"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == "/somewhere/train_mil.py --output 'runs/a b'"


def count_colors(picture: Image.Image) -> Counter:
    return Counter({color: count for count, color in picture.convert("RGB").getcolors(2**20)})


def test_curves_are_drawn_in_their_colors_and_are_the_same_each_time(tmp_path):
    panels = {"loss": {"training": [(1, 2.0), (50, 1.0)], "held out": [(20, 1.5)]}, "rate": {"encoder": [(1, 1e-6)]}}
    found = draw_curves(panels, 20)
    assert found == draw_curves(panels, 20) != draw_curves(panels)
    (tmp_path / "curves.png").write_bytes(found)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width == 1440
        halves = [
            picture.crop((0, part * picture.height // 2, 1440, (part + 1) * picture.height // 2)) for part in (0, 1)
        ]
    blue, orange = (0x0B, 0x6E, 0x99), (0xD9, 0x73, 0x0D)
    top, bottom = (count_colors(half) for half in halves)
    assert top[blue] > 500 and top[orange] > 50 and bottom[blue] > 50 and not bottom[orange]
