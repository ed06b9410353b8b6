"""Arguments from recipes and flags; the folder of a run: another recipe is refused, a killed run leaves what it had."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from modeling_m2s.storage_m2s import StorageError, exclusive, write_json
from train.arguments import parse_arguments
from train.distill_clip import DistillationArguments
from train.runs import RunFolder

RECIPES = sorted((Path(__file__).parent.parent / "train/configs").glob("m2s_clip_*.yaml"))


@dataclass
class Arguments:
    name: str = field(metadata={"help": "required"})
    folders: list[str] = field(default_factory=list, metadata={"help": "some"})
    rate: float = field(default=0.5, metadata={"help": "a number"})
    steps: int = field(default=7, metadata={"help": "a whole number"})
    place: str | None = field(default=None, metadata={"help": "optional"})
    mirror: bool = field(default=False, metadata={"help": "off"})
    select: bool = field(default=True, metadata={"help": "on"})


def parse(folder: Path, recipe: str | bytes | None, *flags: str) -> Arguments:
    """Arguments of a recipe with this text, and of flags after it."""
    if recipe is None:
        return parse_arguments(Arguments, "python -m train.something", list(flags))
    path = folder / "recipe.yaml"
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    return parse_arguments(Arguments, "python -m train.something", [str(path), *flags])


def test_fields_come_from_the_recipe_or_are_defaults(tmp_path):
    text = "name: é b\nfolders: [a, b c]\nrate: 1e-3\nsteps: -2\nmirror: yes\nselect: false\n"
    assert parse(tmp_path, text) == Arguments("é b", ["a", "b c"], 1e-3, -2, None, True, False)
    assert parse(tmp_path, "name: a") == parse(tmp_path, None, "--name", "a") == Arguments("a")


def test_flags_win_over_the_recipe(tmp_path):
    text = "name: a\nfolders: [a, b]\nrate: 0.1\nsteps: 3\nmirror: true\nselect: true\n"
    flags = ["--steps", "4", "--folders", "c", "--mirror", "false", "--select", "False", "--place", "x"]
    assert parse(tmp_path, text, *flags) == Arguments("a", ["c"], 0.1, 4, "x", False, False)


def test_one_value_is_a_list_of_one_and_empty_fields_keep_their_default(tmp_path):
    assert parse(tmp_path, "name: a\nfolders: b").folders == ["b"]
    assert parse(tmp_path, "name: a\nfolders: []\nplace:\nrate: null\nmirror: ~") == Arguments("a")
    assert parse(tmp_path, "", "--name", "a") == Arguments("a")


def test_environment_variables_are_named_in_recipes(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "/a b")
    monkeypatch.delenv("NOWHERE", raising=False)
    found = parse(tmp_path, "name: $PLACE/c\nfolders: ['${PLACE}x', $NOWHERE/d]\nplace: plain")
    assert (found.name, found.folders, found.place) == ("/a b/c", ["/a bx", "$NOWHERE/d"], "plain")


MISTAKES = {
    "unknown field": ("name: a\nstep: 3\nzeal: 1", [], r"recipe\.yaml: no such field: step, zeal"),
    "unknown flag": ("name: a", ["--zeal", "1"], "no such field: --zeal 1"),
    "a list": ("- name\n- a", [], r"recipe\.yaml: a recipe is a table of fields"),
    "a word": ("name", [], r"recipe\.yaml: a recipe is a table of fields"),
    "not YAML": ("name: [a", [], r"recipe\.yaml: "),
    "not text": (b"\xff\xfe\xfa", [], r"recipe\.yaml: 'utf-8'"),
    "not a number": ("name: a\nsteps: many", [], "--steps: invalid int value: 'many'"),
    "not a boolean": ("name: a\nmirror: perhaps", [], "perhaps"),
    "nothing required": ("steps: 3", [], "required: --name"),
    "no recipe": (None, ["missing.yaml", "--name", "a"], r"missing\.yaml: .*No such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe, flags, message = MISTAKES[mistake]
    with pytest.raises(SystemExit) as ending:
        parse(tmp_path, recipe, *flags)
    told = capsys.readouterr().err
    assert ending.value.code == 2 and "Traceback" not in told
    assert re.search(rf"^python -m train\.something: error: .*{message}", told, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_ship_are_read_whole(recipe, monkeypatch):
    monkeypatch.setenv("M2S_ASSETS", "/assets")
    flags = ["--teacher", "CLIP", "--output", "run"]
    arguments = parse_arguments(DistillationArguments, "python -m train.distill_clip", [str(recipe), *flags])
    assert arguments.teacher == "CLIP" and arguments.images[0].startswith("/assets/")
    assert all(path.startswith("/assets/") for path in arguments.videos)


def test_every_argument_has_a_help_text():
    assert [f for f in DistillationArguments.__dataclass_fields__.values() if len(f.metadata.get("help", "")) < 5] == []


RECIPE = {"epochs": 3, "rate": 0.1, "names": ["a"], "place": None}


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
    }
    for message, change in others.items():
        with pytest.raises(StorageError) as error:
            RunFolder(tmp_path / "run", {**RECIPE, **change}, accelerator)
        assert str(error.value).startswith(f"{tmp_path}/run was made with other settings: {message}. Use")
    assert json.loads((tmp_path / "run/recipe.json").read_text()) == RECIPE


def test_a_recipe_that_is_none_is_refused(tmp_path, accelerator):
    (tmp_path / "recipe.json").write_text('{"epochs": ')
    with pytest.raises(StorageError, match=r"recipe\.json: not readable \(.*\); use another folder"):
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


def test_only_the_latest_complete_checkpoint_stays_and_counts(tmp_path, accelerator):
    run = RunFolder(tmp_path, RECIPE, accelerator)
    for number in (9, 10, 100):
        weights = step(accelerator)
        run.save(number)
        assert checkpoints(run) == [f"step-{number:08d}"]
    step(accelerator)
    left = tmp_path / "checkpoints/step-00000200.tmp"  # a run that was killed while it wrote this
    left.mkdir()
    write_json(left / "state.json", {"step": 200})
    (tmp_path / "checkpoints/step-00000009").mkdir()  # and while it removed this
    assert run.restore() == {"step": 100}
    assert torch.equal(accelerator.layer.weight, weights)
    run.save(200)
    assert checkpoints(run) == ["step-00000200"] and run.restore() == {"step": 200}
