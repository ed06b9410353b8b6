"""Checkpoints of a run on the Hub: pushed to a branch as they are saved, brought back by `--resume USER/NAME@REVISION`.

The branch holds `recipe.json`, `log.jsonl` and the latest checkpoint, so a run that lost its machine goes on elsewhere.
Checkpoints have pickles; they are read by PyTorch's loader of weights alone, which runs no code.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

from modeling_m2s.push_m2s import PushError, Upload, push
from modeling_m2s.storage_m2s import StorageError

BRANCH = "checkpoints"
RECORDS = ("recipe.json", "log.jsonl")
CHECKPOINT_NAME = re.compile(r"step-\d{8}")


def push_checkpoint(checkpoint: Path, repo_id: str, private: bool = False) -> str | None:
    """Push a checkpoint of a run in place of the one before; returns why not, if it cannot be pushed."""
    run = checkpoint.parent.parent
    files: dict[str, Path | bytes] = {name: run / name for name in RECORDS if (run / name).is_file()}
    files |= {f"checkpoints/{checkpoint.name}/{path.name}": path for path in checkpoint.iterdir()}
    try:
        push(Upload("model", files, replaces="checkpoint"), repo_id, private, BRANCH)
    except PushError as error:
        return str(error)
    return None


def fetch_checkpoint(name: str, output: Path, require_same_recipe: Callable[[Path, Path], None]) -> str:
    """Bring a run's latest checkpoint from the Hub into the folder of a run that has none; a line that says which.

    Args:
        name: `USER/NAME`, or `USER/NAME@REVISION`; by default the branch that checkpoints are pushed to.
        require_same_recipe: raises a StorageError if the recipe in a file, of the run of this name, is not this run's.

    After a kill the folder has the whole checkpoint or none. An older one in the Hub's cache is not used.

    Raises:
        StorageError: no such repository, revision or checkpoint there; it was made with another recipe.
    """
    repo, _, revision = name.partition("@")
    try:
        commit = HfApi().model_info(repo, revision=revision or BRANCH).sha
        found = Path(snapshot_download(repo, revision=commit, allow_patterns=[*RECORDS, "checkpoints/step-*/*"]))
    except (HTTPError, HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StorageError(f"resume {name}: no checkpoint could be downloaded ({reason})") from error
    checkpoints = sorted(
        path for path in found.glob("checkpoints/step-*") if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()
    )
    if not checkpoints or not (found / "recipe.json").is_file():
        raise StorageError(f"resume {name}: holds no checkpoint; train with --push-to-hub and --push-checkpoints")
    require_same_recipe(found / "recipe.json", Path(name))
    aside = output / "checkpoints" / f"{checkpoints[-1].name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(checkpoints[-1], aside)
    if (found / "log.jsonl").is_file():
        shutil.copy(found / "log.jsonl", output / "log.jsonl")
    aside.rename(aside.with_suffix(""))
    return f"goes on from {checkpoints[-1].name} of {repo}, commit {commit}"
