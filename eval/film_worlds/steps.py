"""The steps of experiments on film worlds: commands that users run, each once."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from modeling_m2s.storage_m2s import StorageError, write_json


def run(module: str, *words: Any, output: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command of the project; its printed output goes into a file beside `output`.

    Args:
        environment: variables to set besides those of this process.

    Raises:
        ValueError: the command failed; the message has its last line.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_name(f"{output.name}.log")
    print(f"{module} → {output}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", module, *map(str, words), "--output", str(output)]
    with open(log, "w", encoding="utf-8") as file:
        variables = {**os.environ, **(environment or {})}
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=variables).returncode
    if status:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise ValueError(f"{' '.join(command)} ended with {status}: {lines[-1] if lines else 'it printed nothing'}")


def run_once(module: str, *words: Any, output: Path, environment: Mapping[str, str] | None = None) -> None:
    """`run`, unless its output exists already, so that a second run of an experiment skips finished commands.

    The command is saved beside the output as `NAME.done.json`. A finished output without that file is used as it is.
    An input folder that was made again in the meantime is not noticed: remove everything that was made from it as well.

    Raises:
        StorageError: the output was made by another command, or from a recipe or list with other content.
        ValueError: the command failed; the message has its last line.
    """
    record = output.with_name(f"{output.name}.done.json")
    done = {"command": [module, *(_described(word, output.parent) for word in words)]}
    if record.exists() and is_finished(output):
        if (found := json.loads(record.read_text(encoding="utf-8"))) != done:
            raise StorageError(
                f"{output} was made by {' '.join(found['command'])}, not by {' '.join(done['command'])}; remove it "
                "with what was made from it, or use another folder"
            )
        return
    if is_finished(output):
        print(f"{output} is taken as it is", file=sys.stderr, flush=True)
        return
    run(module, *words, output=output, environment=environment)
    write_json(record, done)


def _described(word: Any, folder: Path) -> str:
    """A command's argument for its record: files with a hash of their content, folders relative to the output."""
    if not isinstance(word, Path):
        return str(word)
    if word.is_file():
        content = word.read_bytes()
        if word.suffix == ".yaml":  # a recipe with another comment is the same recipe
            content = json.dumps(yaml.safe_load(content), sort_keys=True).encode()
        return f"{word.name}:{hashlib.sha256(content).hexdigest()[:12]}"
    return os.path.relpath(word, folder)


def is_finished(output: Path) -> bool:
    """Whether a dataset, a world, a training run or a file of results is complete."""
    if output.is_file():
        return True
    if (output / "m2s.json").exists():
        return bool(json.loads((output / "m2s.json").read_text(encoding="utf-8")).get("complete"))
    # train_mil and train_moco write results.json last, make_film_world truth/shots.csv.
    return (output / "results.json").exists() or (output / "truth/shots.csv").exists()
