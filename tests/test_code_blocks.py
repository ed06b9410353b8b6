"""The code blocks of all documents: Python runs, commands pass the real parsers of their flags.

Blocks are found, not listed. A document may name what a test does not have, a model of the Hub or frames of a film;
`SUBSTITUTES` and `NAMES` say what stands for it. Anything else that a block needs, it makes itself.
"""

import configparser
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from make_videos import make_video
from PIL import Image

from m2s.commands import parse
from m2s.main import build_parser, main
from modeling_m2s import tiny_model
from modeling_m2s.pretrained_m2s import TINY_MODEL

ROOT = Path(__file__).parent.parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
DOCUMENTS = [
    name
    for name in TRACKED
    if name in ("README.md", "benchmarks/README.md") or re.fullmatch(r"docs/.*\.md|model_cards/.*README\.md", name)
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = {"m2s", "python", "accelerate", "pip", "make"}
NO_CODE = ("modeling_m2s/",)  # first words of blocks that are no code: the tree of files
SUBSTITUTES = {"openai/clip-vit-base-patch16": tiny_model(), "runs/own/own": tiny_model()}
FILMS = ("film.mp4", "day.mp4", "night.mp4")
NAMES = {
    f"frame_{number}": Image.fromarray(np.random.default_rng(number).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    for number in range(1, 5)
}


def blocks(document: str) -> list[tuple[str, str]]:
    """Language, which may be empty, and text of a document's blocks, in order."""
    return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))


def commands(document: str) -> list[list[str]]:
    """The words of every command of a document."""
    texts = [text for language, text in blocks(document) if language in ("", "bash", "sh", "shell")]
    lines = [line for text in texts if text.split()[0] not in NO_CODE for line in text.replace("\\\n", " ").split("\n")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise unless the command exists and reads these flags."""
    program, *rest = words
    assert program in PROGRAMS, f"{program!r} is no known program; add it to PROGRAMS and say how it is checked"
    if program == "m2s":
        build_parser().parse_args(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip":
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = {extra for word in rest for found in re.findall(r"\[(.+)\]", word) for extra in found.split(",")}
        assert rest[0] == "install" and extras <= set(setup["options.extras_require"])
    else:
        if program == "accelerate":
            assert rest.pop(0) == "launch"
        assert rest.pop(0) == "-m", "commands run modules"
        check_module(rest[0], rest[1:], monkeypatch)


def check_module(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a module's `main` up to where it has read its flags."""
    module, read = importlib.import_module(name), []
    monkeypatch.setattr(
        module, "run_command", lambda prog, kinds, run, argv, **more: read.append(parse(kinds, argv, prog, **more))
    )
    module.main(words)
    assert len(read) == 1


def test_documents_are_found():
    assert {"README.md", "model_cards/m2s-clip-tiny/README.md"} <= set(DOCUMENTS)
    assert sum(len(commands(name)) for name in DOCUMENTS) > 50
    known = ("", "python", "bash", "sh", "shell", "bibtex")
    assert all(language in known for name in DOCUMENTS for language, _ in blocks(name))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist_with_all_their_flags(document, monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes are named from here
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")  # pushing asks for one before anything else
    wrong = []
    for words in commands(document):
        try:
            check(words, monkeypatch)
        except (Exception, SystemExit) as error:
            wrong.append(f"{shlex.join(words)}: {error!r}")
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "m2s serch index",
        "m2s embed film.mp4 --output index --shot-per-scene 9",
        "python -m eval.probe --task own --label scenes.csv",
        "python -m data_scripts.gone --output x",
        "python eval/probe.py",
        "accelerate launch -m train.train_moco train/configs/gone.yaml",
        "pip install '.[vidoe]'",
        "make demonstration",
        "curl address",
    ],
)
def test_wrong_commands_are_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)):
        check(shlex.split(line), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(kind == "python" for kind, _ in blocks(name))])
def test_python_runs_from_top_to_bottom(document, tmp_path, monkeypatch):
    for seed, name in enumerate(FILMS):
        make_video(tmp_path / name, [17, 16], seed=seed)
    monkeypatch.chdir(tmp_path)
    if any('"exported/' in text for _, text in blocks(document)):
        assert main(["export-model", TINY_MODEL, "exported"]) == 0
    namespace = dict(NAMES)
    for number, (language, text) in enumerate(blocks(document), start=1):
        if language == "python":
            for named, instead in SUBSTITUTES.items():
                text = text.replace(named, instead)
            exec(compile(text, f"{document}, block {number}", "exec"), namespace)
