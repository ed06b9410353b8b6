"""Checkpoints of a run on the Hub: pushed to a branch as they are saved, fetched by `--resume USER/NAME@REVISION`.

The branch holds `recipe.json`, `log.jsonl` and the latest checkpoint, so a run that lost its machine can go on
elsewhere. Checkpoints contain pickles; PyTorch reads them with `weights_only`, which runs no code.
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
    """Push a checkpoint, replacing the one before; returns the reason if it cannot be pushed, else None."""
    run = checkpoint.parent.parent
    files: dict[str, Path | bytes] = {name: run / name for name in RECORDS if (run / name).is_file()}
    files |= {f"checkpoints/{checkpoint.name}/{path.name}": path for path in checkpoint.iterdir()}
    try:
        push(Upload("model", files, replaces="checkpoint"), repo_id, private, BRANCH)
    except PushError as error:
        return str(error)
    return None


def fetch_checkpoint(name: str, output: Path, require_same_recipe: Callable[[Path, Path], None]) -> str:
    """Copy a run's latest checkpoint from the Hub into the folder of a run that has none.

    If the process is killed, the folder has the whole checkpoint or none. The Hub is asked for the latest commit, so an
    older checkpoint in the local cache is not used.

    Args:
        name: `USER/NAME`, or `USER/NAME@REVISION`; by default the branch that checkpoints are pushed to.
        require_same_recipe: called with the path of the downloaded recipe and the run's name; raises a StorageError if
            the recipe is not this run's.

    Returns:
        A line that names the checkpoint.

    Raises:
        StorageError: there is no such repository, revision or checkpoint, or it was made with another recipe.
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
