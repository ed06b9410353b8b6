"""How commands start and end: dataclasses from a recipe and flags, errors in one line, exit statuses 0, 1 and 130.

First the machinery, then every command: each module with a `main`, and each verb of `m2s`.
"""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from accelerate.state import AcceleratorState

from m2s import endings, main, shared
from m2s.commands import parse, run_command
from m2s.endings import UsageError
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
    found = read(tmp_path, "name: $PLACE/c\nfolders: ['${PLACE}x', d$]\nplace: plain")
    assert (found.name, found.folders, found.place) == ("/a b/c", ["/a bx", "d$"], "plain")
    with pytest.raises(UsageError, match=r"folders: \$\{NOWHERE\} is not set in the environment; give --folders"):
        read(tmp_path, "name: a\nfolders: [b, '${NOWHERE}/d']")
    for flags in (["--folders", "e"], ["--folders=e"]):  # what a flag replaces need not be there
        (found,) = parse(Arguments, [write(tmp_path, "name: a\nfolders: [$NOWHERE]"), *flags])
        assert (found.name, found.folders) == ("a", ["e"])


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
    assert sys.modules[print.__module__].__doc__.splitlines()[0] in told  # what its module says
    flat = " ".join(told.split())
    for text in (
        "required (required)",
        "a number (default: 0.5)",
        "on (default: on)",
        "turn --select-all off",
        "some --",
    ):
        assert text in flat
    assert "None" not in told and "False" not in told


MISTAKES = {
    "unknown field": ("name: a\nstep: 3\nzeal: 1", [], r"recipe\.yaml: no such field: step, zeal"),
    "unknown flag": ("name: a", ["--zeal", "1"], "unrecognized arguments: --zeal 1"),
    "a part of a flag": ("name: a", ["--step", "1"], "unrecognized arguments: --step 1"),
    "a word": ("name: a", ["zeal"], "unrecognized arguments: zeal"),
    "a list": ("- name\n- a", [], r"recipe\.yaml: a recipe is a table of fields"),
    "an unset variable": ("name: $NOT_SET_ANYWHERE/a", [], r"recipe\.yaml: name: \$NOT_SET_ANYWHERE is not set"),
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


def commands() -> list[str]:
    """Every module of the folders with commands that has a function `main`, as `python -m` names it."""
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in tracked.splitlines() if name.split("/")[0] in FOLDERS]
    bodies = {name: ast.parse((ROOT / name).read_text()).body for name in names}
    return [
        name.removesuffix(".py").replace("/", ".")
        for name, body in bodies.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body)
    ]


FOLDERS = ("benchmarks", "data_scripts", "eval", "model_cards", "train")
COMMANDS = commands()
# Flags of each command that its dataclasses accept. The inputs are not there, which the command must notice and say.
# None: the command makes its inputs.
NO_INPUTS: dict[str, str | None] = {
    "benchmarks.co_watch": "--count gone",
    "benchmarks.embed": "--assets gone --before HEAD",
    "benchmarks.embedding": "--assets gone --model gone",
    "benchmarks.encoders": None,  # read after other measurements, as in features, memory and shots
    "benchmarks.export": "--photographs gone --video gone --model gone",
    "benchmarks.features": None,
    "benchmarks.film_world": None,
    "benchmarks.memory": None,
    "benchmarks.metrics": None,
    "benchmarks.mil": None,
    "benchmarks.mining": None,
    "benchmarks.moco": None,
    "benchmarks.moco_gpu": None,
    "benchmarks.probes": None,
    "benchmarks.reading": None,
    "benchmarks.shots": None,
    "benchmarks.story_scenes": None,
    "data_scripts.check": "gone",
    "data_scripts.check_film_world": "--world gone",
    "data_scripts.detect_shots": "--movies gone --output new",
    "data_scripts.extract_features": "--shots gone --output new",
    "data_scripts.make_catalog": "--metadata gone --output new",
    "data_scripts.make_film_world": "--photographs gone --output new",
    "data_scripts.mine_scene_pairs": "--features gone --similar gone --space features --output new",
    "data_scripts.pair_atlas": "--pairs gone --shots gone --output new",
    "data_scripts.similar_movies": "--movies gone --sources genre --output new",
    "eval.embed_scenes": "--scenes gone --shots gone --output new",
    "eval.experiments": "--photographs gone --output new",
    "eval.image_encoders": "--student gone --teacher gone --places gone --video gone",
    "eval.masked_shots": "--features gone --films gone --output new",
    "eval.pixel_features": "--shots gone --output new",
    "eval.probe": "--task own --labels gone --embeddings gone --output new.json",
    "eval.report": "--results gone --output new",
    "eval.scene_retrieval": "--world gone --held-out gone --model m2s-clip-tiny --output new",
    "eval.search_spaces": "--photographs gone --output new",
    "eval.story_scenes": None,
    "eval.training_report": "--run gone --shots gone --pairs gone --output new",
    "eval.word_search": "--models m2s-clip-tiny --words gone --photographs gone",
    "model_cards.distilled_clip": "gone",
    "model_cards.generate": "gone",
    "train.concatenate_encoders": "--encoders gone gone --names a b --output new",
    "train.distill_clip": "--teacher gone --images gone --output new",
    "train.train_mil": "--features gone --similar gone --output new",
    "train.train_moco": "--pairs gone --shots gone --model m2s-clip-tiny --output new",
}
VERBS = {
    "app": "gone",
    "embed": "gone --output new",
    "export": "gone --format csv",
    "export-model": "gone new",
    "info": "gone",
    "push": "gone user/name",
    "scenes": "gone",
    "search": "gone --film a --at 0",
    "tag": "gone --model gone",
    "words": "gone --model gone",
}


def test_commands_are_found():
    assert set(COMMANDS) == NO_INPUTS.keys(), "a command without a line in NO_INPUTS, or a line without a command"
    assert main.VERBS.keys() == VERBS.keys()


class Ran(Exception):
    """A command has read its flags."""


def stubbed(name: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = Ran) -> tuple[Any, list]:
    """A command that raises an error in place of its work, and a list that gets its dataclasses when it is called."""
    module, seen = importlib.import_module(name), []

    def run(*_: Any) -> None:
        raise error

    def start(prog: str, kinds: Any, _: Any, argv: Any, **more: Any) -> None:
        assert prog == f"python -m {name}"
        seen.extend(kinds if isinstance(kinds, tuple) else (kinds,))
        run_command(prog, kinds, run, argv, **more)

    monkeypatch.setattr(module, "run_command", start)
    return module, seen


def ends_with_a_line(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Call a command, which must end with status 1 and one line on stderr; the line's message."""
    module, _ = stubbed(name, monkeypatch)
    with pytest.raises(SystemExit) as ending:
        module.main(words)
    start, colon, message = str(ending.value.code).partition(": error: ")
    assert colon and start == name and "\n" not in message
    return message


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, monkeypatch, capsys):
    module, kinds = stubbed(name, monkeypatch)
    with pytest.raises(SystemExit) as ending:
        module.main(["--help"])
    told = capsys.readouterr().out
    assert not ending.value.code and told.startswith(f"usage: python -m {name} [RECIPE.yaml")
    for each in (each for kind in kinds for each in fields(kind) if each.init):
        assert f"  --{each.name.replace('_', '-')}" in told
        check_help(each.name, each.metadata.get("help", ""))


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as ending:
        main.main([verb, "--help"])
    assert not ending.value.code and capsys.readouterr().out.startswith(f"usage: m2s {verb}")
    (verbs,) = (action.choices for action in main.build_parser()._actions if action.choices)
    for action in verbs[verb]._actions:
        check_help(action.dest, action.help or "")


def check_help(flag: str, text: str) -> None:
    assert len(text) > 3 and text == text.strip() and not text.endswith("."), f"{flag}: {text!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_flags_and_recipes_of_every_command(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module, kinds = stubbed(name, monkeypatch)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    required = [
        each for kind in kinds for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING
    ]
    given = [word for each in required for word in (f"--{each.name.replace('_', '-')}", "1")]
    if required:
        told = ends_with_a_line(name, [], monkeypatch)
        assert told.startswith("the following arguments are required: --")
    told = ends_with_a_line(name, [*given, "--zeal", "1"], monkeypatch)
    assert told == f"unrecognized arguments: --zeal 1 (python -m {name} --help lists all flags)"
    recipes = {
        "zeal: 1": r"recipe\.yaml: no such field: zeal",
        "a: [1": r"recipe\.yaml: .*line 1",
        "- 1": r"recipe\.yaml: a recipe is a table of fields",
    }
    for text, message in recipes.items():
        assert re.match(message, ends_with_a_line(name, [Path(write(tmp_path, text)).name, *given], monkeypatch))
    assert re.match(r"gone\.yaml: .*No such file", ends_with_a_line(name, ["gone.yaml", *given], monkeypatch))


@pytest.mark.parametrize(
    "words", [["--zeal"], ["gone"], ["embed"], *([verb, "--zeal"] for verb in VERBS)], ids=" ".join
)
def test_wrong_words_of_every_verb(words, capsys):
    assert main.main(words) == 1
    told = capsys.readouterr()
    assert told.out == "" and re.fullmatch(r"m2s: error: .* \(m2s.* --help lists all flags\)\n", told.err)


@pytest.mark.parametrize("name", [name for name, words in NO_INPUTS.items() if words])
def test_inputs_that_are_not_there(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    AcceleratorState._reset_state(reset_partial_state=True)
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as ending:
        module.main(NO_INPUTS[name].split())
    told = str(ending.value.code)
    assert re.match(rf"{name}: error: .*\bgone\b", told) and "\n" not in told
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_inputs_of_verbs_that_are_not_there(verb, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main([verb, *VERBS[verb].split()]) == 1
    assert re.fullmatch(r"m2s: error: .*\bgone\b.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", [name for name, words in NO_INPUTS.items() if words])
def test_ctrl_c_in_every_command(name, monkeypatch, capsys):
    module, _ = stubbed(name, monkeypatch, KeyboardInterrupt)
    with pytest.raises(SystemExit) as ending:
        module.main(NO_INPUTS[name].split())
    assert ending.value.code == 130
    assert capsys.readouterr() == ("", f"{name}: {endings.INTERRUPTED}\n")


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_in_every_verb(verb, monkeypatch, capsys):
    def run(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.VERBS[verb], "run", run)
    assert main.main([verb, *VERBS[verb].split()]) == 130
    assert capsys.readouterr() == ("", f"m2s: {endings.INTERRUPTED}\n")


# Their functions and classes are of PyTorch or scikit-learn throughout.
SLOW_TO_LOAD = {
    f"benchmarks.{name}"
    for name in ("export", "features", "metrics", "mil", "mining", "moco", "moco_gpu", "probes", "reading")
}
HELP = """
import contextlib, importlib, io, json, sys
heavy = ["torch", "transformers.models", "accelerate", "datasets", "sklearn", "cv2", "scenedetect", "modeling_m2s"]
found, before = {}, set()
for name in sys.argv[1:]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(name).main(["--help"])
    found[name] = sorted({module for module in heavy if module in sys.modules} - before)
    before.update(found[name])
print(json.dumps(found))
"""


def test_help_loads_nothing_that_takes_seconds():
    quick = [name for name in COMMANDS if name not in SLOW_TO_LOAD]
    names = ["m2s.main", *quick]
    done = subprocess.run([sys.executable, "-c", HELP, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {name: [] for name in names}


def test_names_and_defaults_that_are_written_twice_to_load_little(monkeypatch):
    """Flags cannot take them from the library, which takes seconds to load."""
    from data_scripts.detect_shots import DetectShotsArguments
    from eval.embed_scenes import EmbedScenesArguments
    from eval.probe import ProbeArguments
    from eval.tasks import TASKS
    from modeling_m2s.pretrained_m2s import TINY_MODEL
    from modeling_m2s.shots_m2s import ShotSettings

    assert shared.TINY_MODEL == TINY_MODEL
    arguments = DetectShotsArguments(output=Path("o"), movies=Path("m"))
    for each in fields(ShotSettings):
        assert getattr(arguments, each.name) == each.default
    for kind, without in ((ProbeArguments, set()), (EmbedScenesArguments, {"movienet_boundaries"})):
        (told,) = (each.metadata["help"] for each in fields(kind) if each.name == "task")
        assert set(re.findall(r"\w+", told.partition(":")[2].partition(";")[0])) == TASKS.keys() - without
