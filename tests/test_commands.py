"""How commands start and end: dataclasses from a recipe and flags, errors in one line, exit statuses 0, 1 and 130."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from m2s.commands import parse, run_command
from modeling_m2s.errors_m2s import UserError
from modeling_m2s.storage_m2s import StorageError
from modeling_m2s.video_m2s import VideoError

ROOT = Path(__file__).parent.parent
PROG = "python -m train.something"


@dataclass
class Arguments:
    name: str = field(metadata={"help": "required"})
    folders: list[str] = field(default_factory=list, metadata={"help": "some"})
    learning_rate: float = field(default=0.5, metadata={"help": "a number"})
    steps: int = field(default=7, metadata={"help": "a whole number"})
    place: str | None = field(default=None, metadata={"help": "optional"})
    mirror: bool = field(default=False, metadata={"help": "off"})
    select_all: bool = field(default=True, metadata={"help": "on"})
    kind: Literal["plain", "fancy"] = field(default="plain", metadata={"help": "one of two"})

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise ValueError("steps is 0; it must not be")


@dataclass(kw_only=True)
class Places:
    output: Path = field(metadata={"help": "where to"})
    workers: int = field(default=1, metadata={"help": "how many"})


def write(folder: Path, recipe: str | bytes) -> str:
    path = folder / "recipe.yaml"
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    return str(path)


def read(folder: Path, recipe: str | bytes | None, *flags: str) -> Arguments:
    """Arguments of a recipe with this text, and of flags after it."""
    (found,) = parse(Arguments, [*([] if recipe is None else [write(folder, recipe)]), *flags], PROG)
    return found


def test_fields_come_from_the_recipe_or_are_defaults(tmp_path):
    text = "name: é b\nfolders: [a, b c]\nlearning_rate: 1e-3\nsteps: -2\nmirror: yes\nselect_all: false\nkind: fancy\n"
    assert read(tmp_path, text) == Arguments("é b", ["a", "b c"], 1e-3, -2, None, True, False, "fancy")
    assert read(tmp_path, "name: a") == read(tmp_path, None, "--name", "a") == Arguments("a")


def test_flags_win_over_the_recipe(tmp_path):
    text = "name: a\nfolders: [a, b]\nlearning_rate: 0.1\nsteps: 3\nmirror: true\nselect_all: true\n"
    flags = ["--steps", "4", "--folders", "c", "--mirror", "false", "--no-select-all", "--place", "x"]
    assert read(tmp_path, text, *flags) == Arguments("a", ["c"], 0.1, 4, "x", False, False)


@pytest.mark.parametrize("spelling", ["--learning-rate", "--learning_rate"])
def test_dashes_and_underscores_are_the_same(spelling, tmp_path):
    assert (
        read(tmp_path, "name: a", spelling, "3") == read(tmp_path, "name: a", f"{spelling}=3") == Arguments("a", [], 3)
    )


SWITCHES = {
    "--mirror": (True, True),
    "--mirror true": (True, True),
    "--mirror=false": (False, True),
    "--no-select-all": (False, False),
    "--no_select_all": (False, False),
    "--select-all false": (False, False),
    "--select_all": (False, True),
    "--mirror --no-select-all": (True, False),
}


@pytest.mark.parametrize("flags", SWITCHES)
def test_booleans_are_switches(flags, tmp_path):
    found = read(tmp_path, "name: a", *flags.split())
    assert (found.mirror, found.select_all) == SWITCHES[flags]


def test_one_value_is_a_list_of_one_and_empty_fields_keep_their_default(tmp_path):
    assert read(tmp_path, "name: a\nfolders: b").folders == ["b"]
    assert read(tmp_path, "name: a\nfolders: []\nplace:\nlearning_rate: null\nmirror: ~") == Arguments("a")
    assert read(tmp_path, "", "--name", "a") == Arguments("a")


def test_values_that_look_like_flags_are_values(tmp_path):
    assert read(tmp_path, "name: --steps\nplace: a=b").name == "--steps"
    assert read(tmp_path, "name: a\nplace: a=b").place == "a=b"


def test_environment_variables_are_named_in_recipes(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "/a b")
    monkeypatch.delenv("NOWHERE", raising=False)
    found = read(tmp_path, "name: $PLACE/c\nfolders: ['${PLACE}x', $NOWHERE/d]\nplace: plain")
    assert (found.name, found.folders, found.place) == ("/a b/c", ["/a bx", "$NOWHERE/d"], "plain")


def test_each_dataclass_gets_its_fields(tmp_path):
    words = [write(tmp_path, "name: a\nworkers: 3\nsteps: 2"), "--output", "runs/x", "--mirror"]
    assert parse((Arguments, Places), words) == (
        Arguments("a", steps=2, mirror=True),
        Places(output=Path("runs/x"), workers=3),
    )


def test_a_file_of_flags_beside_the_script_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "script.args").write_text("--steps 99")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py"), "--name", "a"])
    seen = []
    run_command(PROG, Arguments, seen.append)
    assert seen == [Arguments("a")]


def test_help_shows_dashes_and_all_fields(capsys):
    with pytest.raises(SystemExit) as ending:
        run_command(PROG, (Arguments, Places), print, ["--help"])
    told = capsys.readouterr().out
    assert not ending.value.code and told.startswith(f"usage: {PROG} [RECIPE.yaml] [--flag value ...]")
    shown = set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE))
    assert shown == {
        *(
            "--name",
            "--folders",
            "--learning-rate",
            "--steps",
            "--place",
            "--mirror",
            "--select-all",
            "--no-select-all",
        ),
        *("--kind", "--output", "--workers", "--debug"),
    }
    assert "_" not in re.sub(r"\b[A-Z_]+\b", "", told)  # only names of values, such as LEARNING_RATE


MISTAKES = {
    "unknown field": ("name: a\nstep: 3\nzeal: 1", [], r"recipe\.yaml: no such field: step, zeal"),
    "unknown flag": ("name: a", ["--zeal", "1"], "unrecognized arguments: --zeal 1"),
    "a part of a flag": ("name: a", ["--step", "1"], "unrecognized arguments: --step 1"),
    "a word": ("name: a", ["zeal"], "unrecognized arguments: zeal"),
    "a list": ("- name\n- a", [], r"recipe\.yaml: a recipe is a table of fields"),
    "one word": ("name", [], r"recipe\.yaml: a recipe is a table of fields"),
    "a table in it": ("name: {a: 1}", [], r"recipe\.yaml: name is a table; a field is a value"),
    "not YAML": ("name: [a", [], r"recipe\.yaml: "),
    "not text": (b"\xff\xfe\xfa", [], r"recipe\.yaml: 'utf-8'"),
    "not a number": ("name: a\nsteps: many", [], "--steps: invalid int value: 'many'"),
    "not a boolean": ("name: a\nmirror: perhaps", [], "perhaps"),
    "not a choice": ("name: a\nkind: odd", [], r"--kind: invalid choice: 'odd' \(choose from '?plain'?, '?fancy"),
    "nothing required": ("steps: 3", [], "required: --name"),
    "no recipe": (None, ["missing.yaml", "--name", "a"], r"missing\.yaml: .*No such file"),
    "refused by the dataclass": ("name: a", ["--steps", "0"], "steps is 0; it must not be"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_one_line(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe, flags, message = MISTAKES[mistake]
    words = [*([] if recipe is None else [write(tmp_path, recipe)]), *flags]
    with pytest.raises(SystemExit) as ending:
        run_command(PROG, Arguments, print, words)
    assert re.match(rf"train\.something: error: .*{message}", ending.value.code) and "\n" not in ending.value.code
    assert capsys.readouterr() == ("", "")
    with pytest.raises((UserError, ValueError)):
        run_command(PROG, Arguments, print, [*words, "--debug"])


ERRORS = [UserError, ValueError, StorageError, PermissionError, lambda words: VideoError("film.mp4", words)]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_of_the_user_end_with_one_line(error):
    def run(_: Arguments) -> None:
        raise error("two\n   lines")

    with pytest.raises(SystemExit) as ending:
        run_command(PROG, Arguments, run, ["--name", "a"])
    assert ending.value.code in ("train.something: error: two lines", "train.something: error: film.mp4: two lines")
    with pytest.raises((UserError, ValueError, OSError), match="two\n   lines"):
        run_command(PROG, Arguments, run, ["--name", "a", "--debug"])


def test_a_bug_keeps_its_traceback():
    def run(_: Arguments) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_command(PROG, Arguments, run, ["--name", "a"])


@pytest.mark.parametrize("status", [None, 0, 3])
def test_a_command_may_choose_its_status(status):
    if not status:
        run_command(PROG, Arguments, lambda _: status, ["--name", "a"])
        return
    with pytest.raises(SystemExit) as ending:
        run_command(PROG, Arguments, lambda _: status, ["--name", "a"])
    assert ending.value.code == status


SCRIPT = """
import time
from dataclasses import dataclass
from m2s.commands import run_command

@dataclass
class Arguments:
    wait: bool = False

def run(arguments):
    print("started", flush=True)
    time.sleep(600 if arguments.wait else 0)
    raise ValueError("not like this")

run_command("python -m stage", Arguments, run)
"""


@pytest.mark.parametrize(
    ("flags", "status", "told"),
    [
        ([], 1, r"stage: error: not like this\n"),
        (["--wait"], 130, r"stage: interrupted; run the same command again to continue\n"),
    ],
)
def test_the_process_ends_as_said(flags, status, told, tmp_path):
    (tmp_path / "stage.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "stage", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    assert process.stdout.readline() == "started\n"
    if "--wait" in flags:
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines(keepends=True) if not line.startswith("[transformers]")]
    assert process.returncode == status and re.fullmatch(told, "".join(lines), re.DOTALL), err
