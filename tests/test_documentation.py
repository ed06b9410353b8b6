"""README, packaging and the rules of the house hold."""

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
DOCUMENTS = ["README.md", *(name for name in TRACKED if re.fullmatch(r"docs/.*\.md", name))]


def imports(text: str):
    """(module or name, relative level, inside a try or a function) of every import of a file's text."""
    tree = ast.parse(text)
    guarded = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.Try, ast.FunctionDef, ast.If))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], 0, id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], node.level, id(node) in guarded


def test_the_tree_of_files_is_the_real_one():
    text = (ROOT / "docs/files.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    block = next(text for text in blocks if text.startswith("modeling_m2s/"))
    folder, named = "", set()
    for line in block.splitlines():
        if line.startswith("   "):  # what a folder's line says goes on
            continue
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        named.add(folder + name if line.startswith(" ") else name)
    real = {f"{path.split('/')[0]}/" for path in TRACKED if "/" in path and not path.startswith(".")}
    library = [path.split("/")[1:] for path in TRACKED if path.startswith("modeling_m2s/")]
    real |= {"modeling_m2s/" + below[0] + "/" * (len(below) > 1) for below in library if below != ["__init__.py"]}
    real |= {
        f"{path.split('/')[0]}/{path.split('/')[1]}/"
        for path in TRACKED
        if path.startswith(("data_scripts/", "train/", "eval/")) and path.count("/") > 1
    }
    assert named == real


def test_files_to_read_first_exist():
    first = re.search(r"Read in this order:\s(.*?)\.\n\n", (ROOT / "docs/files.md").read_text(), re.DOTALL)[1]
    assert len(found := re.findall(r"`(.+?)`", first)) == 5
    assert [path for path in found if path not in TRACKED] == []


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / document).parent.joinpath(target).exists(), f"{document} links to {target}"


def test_flags_in_the_documents_exist():
    from m2s.main import build_parser

    known = set()
    for action in build_parser()._actions:
        for command in (getattr(action, "choices", None) or {}).values():
            known |= set(command._option_string_actions)
    for name in TRACKED:
        if name.split("/")[0] in ("data_scripts", "train", "eval", "model_cards") and name.endswith(".py"):
            module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
            names = {field.name for kind in kinds for field in fields(kind) if "help" in field.metadata}
            known |= {f"--{spelling}" for name in names for spelling in (name, name.replace("_", "-"))}
    for document in DOCUMENTS:
        assert set(re.findall(r"(--[a-z][a-z_-]+)", (ROOT / document).read_text())) <= known, document


def test_the_library_imports_little_at_top_level():
    allowed = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"} | set(sys.stdlib_module_names)
    for path in sorted((ROOT / "modeling_m2s").glob("*.py")):
        for module, level, guarded in imports(path.read_text()):
            assert level == 1 or guarded or module in allowed, f"{path.name} imports {module}"


def test_the_command_line_imports_nothing_that_loads_slowly():
    for path in sorted((ROOT / "m2s").glob("*.py")):
        for module, _, guarded in imports(path.read_text()):
            light = {"m2s", *sys.stdlib_module_names} | ({"transformers"} if path.name == "commands.py" else set())
            assert guarded or module in light, f"{path.name} imports {module}"


def test_folders_import_one_way():
    allowed = {
        "eval": {"eval", "data_scripts", "model_cards", "m2s", "modeling_m2s"},
        "train": {"train", "data_scripts", "model_cards", "m2s", "modeling_m2s"},
        "data_scripts": {"data_scripts", "m2s", "modeling_m2s"},
        "model_cards": {"model_cards", "m2s", "modeling_m2s"},  # the Space is the page of `m2s app`
        "m2s": {"m2s", "modeling_m2s"},
        "modeling_m2s": {"modeling_m2s"},
    }
    for name in TRACKED:
        folder = name.split("/")[0]
        if folder in allowed and name.endswith(".py"):
            text = re.sub(r"from eval\.metrics\b", "from metrics", (ROOT / name).read_text())  # a leaf: anyone may
            ours = {module for module, level, _ in imports(text) if not level} & set(allowed)
            assert ours <= allowed[folder], f"{name} imports {ours - allowed[folder]}"


def test_no_path_of_a_machine_and_no_pickle():
    # Put together here, so that this file does not hold them.
    forbidden = ["/ro" + "ot/", "/ho" + "me/", "torch.lo" + "ad(", "pick" + "le.lo"]
    for name in TRACKED:
        if (ROOT / name).suffix in (".py", ".md", ".cfg", ".toml", ".txt", ""):
            text = (ROOT / name).read_text()
            assert [word for word in forbidden if word in text] == [], name


@pytest.mark.slow
def test_the_wheel_installs_the_library_alone(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    subprocess.run([*command, tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("movies2scenes-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"modeling_m2s", "m2s"}
    modules = {path for path in TRACKED if path.startswith(("modeling_m2s/", "m2s/"))}
    assert modules <= set(names)
    assert any(name.endswith("licenses/modeling_m2s/m2s_clip_tiny/LICENSE") for name in names)
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "License: Apache-2.0 AND LicenseRef-research-and-demonstration\n" in metadata  # code and weights


def test_the_oldest_environment_is_what_the_package_asks_for_at_least():
    bounds = dict(re.findall(r"^    ([\w-]+)>=([\d.]+)", (ROOT / "setup.cfg").read_text().split("\ndata =")[0], re.M))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests/environments/oldest.txt").read_text(), re.M))
    assert pins.pop("torchvision")
    shorter = {name: re.sub(r"(\.0)+$", "", version) for name, version in pins.items()}
    assert shorter == {name: re.sub(r"(\.0)+$", "", version) for name, version in bounds.items()}
