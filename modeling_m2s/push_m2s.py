"""`m2s push`: a model or a dataset of this project to a repository of the Hub, in one commit.

    upload = collect(Path("runs/moco"), "someone/scenes")       # which files, under which names; needs no network
    print(upload.listing())
    print(push(upload, "someone/scenes", private=True))         # the address of the commit

A model is uploaded with the code that runs it, so that `AutoModel.from_pretrained(…, trust_remote_code=True)` works
without this package. Only files of known kinds are uploaded: no checkpoints, pickles, temporary or hidden files.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, get_token, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from .cards_m2s import eval_results, is_ours, model_card, without_paths
from .configuration_m2s import CLIP_MODEL_TYPES, M2SMovieSimilarityConfig, M2SSceneConfig, M2SSceneEnsembleConfig
from .dataset_cards_m2s import dataset_card
from .ensemble_m2s import M2SSceneEnsembleModel
from .errors_m2s import UserError
from .modeling_m2s import M2SSceneForClassification, M2SSceneModel
from .movie_similarity_m2s import M2SMovieSimilarityModel
from .pretrained_m2s import PICKLES
from .processing_m2s import M2SSceneProcessor
from .storage_m2s import RECORD_NAME, SCHEMAS, SHARD_NAME, finished_dataset, read_json, shard_names
from .video_processing_m2s import M2SVideoProcessor

# By model type: the class that each auto class loads. Models of other types need no code of ours.
AUTO_CLASSES: dict[str, dict[str, type]] = {
    "m2s_scene": {
        "AutoConfig": M2SSceneConfig,
        "AutoModel": M2SSceneModel,
        "AutoProcessor": M2SSceneProcessor,
        "AutoVideoProcessor": M2SVideoProcessor,
    },
    "m2s_scene_ensemble": {
        "AutoConfig": M2SSceneEnsembleConfig,
        "AutoModel": M2SSceneEnsembleModel,
        "AutoProcessor": M2SSceneProcessor,
        "AutoVideoProcessor": M2SVideoProcessor,
    },
    "m2s_movie_similarity": {"AutoConfig": M2SMovieSimilarityConfig, "AutoModel": M2SMovieSimilarityModel},
}
MODEL_FILES = re.compile(
    r"((generation_|preprocessor_|processor_|video_preprocessor_)?config|modules|sentence_bert_config"
    r"|training|evaluations|tokenizer|tokenizer_config|special_tokens_map|vocab)\.json|merges\.txt"
    r"|[^/]+\.safetensors(\.index\.json)?|README\.md|(LICENSE|NOTICE)(\.md|\.txt)?"
)
RUN_RECORDS = ("recipe.json", "results.json")
# Files of an earlier push to delete, because they would be read together with the new ones.
REPLACED = {
    "model": re.compile(
        r"[^/]+\.safetensors(\.index\.json)?|\.eval_results/[^/]+\.yaml|(training|evaluations|results|recipe)\.json"
        r"|modules\.json|sentence_bert_config\.json|\d_[^/]+/config\.json"
    ),
    "dataset": re.compile(rf"([^/]+/)?({RECORD_NAME}|data/{SHARD_NAME.pattern})"),
    "checkpoint": re.compile(r"checkpoints/.*"),
}


class PushError(UserError, ValueError):
    """A folder that cannot be pushed, or that the Hub does not take; the message gives the reason and the fix."""


@dataclass(frozen=True)
class Upload:
    """The files to upload.

    Attributes:
        repo_type: model or dataset.
        files: each file's content, or its path on this machine, by path in the repository.
        replaces: key of `REPLACED` for the files of earlier pushes to delete; by default the repository's type.
    """

    repo_type: str
    files: dict[str, Path | bytes]
    replaces: str | None = None

    def listing(self) -> str:
        """A line for each file with its size in bytes, and one with the total."""
        sizes = {path: _size(content) for path, content in sorted(self.files.items())}
        lines = [f"{size:>15,}  {path}" for path, size in sizes.items()]
        return "\n".join([*lines, f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files of a {self.repo_type}"])


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def collect(folder: Path, repo_id: str, with_keyframes: bool = False) -> Upload:
    """The files of a folder to upload; uses no network and writes nothing.

    Args:
        folder: a model; a training's output with `model/` in it; a dataset; or datasets side by side, such as an index.
        repo_id: `USER/NAME`, for the card that is made if the folder has none.
        with_keyframes: allow datasets that hold pictures of films.

    Raises:
        PushError: `repo_id` is no name of a repository; the folder is of no such kind, is not finished or links to
            files outside it; or it holds keyframes and `with_keyframes` is false.
        StorageError: a dataset's record or shards cannot be read.
    """
    require_repo_id(repo_id)
    if not folder.is_dir():
        raise PushError(f"{folder}: no such folder")
    for model in (folder, folder / "model"):
        if (model / "config.json").is_file():
            files = _model_files(model, repo_id)
            if model != folder:
                files |= {name: _run_record(folder / name) for name in RUN_RECORDS if (folder / name).is_file()}
            return Upload("model", files)
    if (folder / RECORD_NAME).is_file():
        return Upload("dataset", _dataset_files(folder, with_keyframes) | _dataset_card(folder, repo_id, False))
    kinds = [kind for kind in SCHEMAS if (folder / kind / RECORD_NAME).is_file()]
    if not kinds:
        raise PushError(f"{folder}: neither a model (config.json) nor a dataset of a stage ({RECORD_NAME})")
    files = {}
    for kind in kinds:
        there = _dataset_files(folder / kind, with_keyframes)
        files |= {f"{kind}/{path}": content for path, content in there.items()}
    return Upload("dataset", files | _dataset_card(folder, repo_id, True))


def require_repo_id(repo_id: str) -> None:
    """Raise a PushError unless `repo_id` is the name of a repository."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise PushError(
            f"{repo_id!r} is no name of a repository; it reads USER/NAME, of letters, digits, - _ ."
        ) from None


def require_token() -> None:
    """Raise a PushError if there is no token for the Hub, because uploads need one."""
    if not get_token():
        raise PushError("no token for the Hub: run hf auth login, or set HF_TOKEN")


def push(upload: Upload, repo_id: str, private: bool = False, revision: str | None = None) -> str:
    """Upload in one commit, which replaces the weights or shards of earlier ones; return the commit's address.

    A missing repository or branch is created. An upload that breaks off leaves the repository as it was; the next one
    does not send the large files that had arrived.

    Raises:
        PushError: there is no token, or the Hub refuses it; the repository is public, but `private` is set; or there
            is no connection, or it breaks off.
    """
    require_token()
    api, repo_type = HfApi(), upload.repo_type
    with _one_line_errors(repo_id):
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise PushError(
                f"{repo_id} exists and is public; make it private on its page first, or leave out --private"
            )
        if revision:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        replaced = REPLACED[upload.replaces or repo_type]
        stale = [path for path in there if replaced.fullmatch(path) and path not in upload.files]
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(path, content) for path, content in sorted(upload.files.items())),
                *(CommitOperationDelete(path) for path in stale),
            ],
            commit_message="m2s push",
            repo_type=repo_type,
            revision=revision,
        )
    return str(commit.commit_url)


@contextlib.contextmanager
def _one_line_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub and the network into a PushError that says what to do."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise PushError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except (HTTPError, OSError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if status in (401, 403):
            raise PushError(
                f"{repo_id}: the Hub refuses the token ({status}); one with write access to the repository is needed: "
                "run hf auth login, or set HF_TOKEN"
            ) from error
        if status and status < 500:
            raise PushError(f"{repo_id}: the Hub refuses the upload: {cause}") from error
        raise PushError(
            f"{repo_id}: no connection to the Hub, or it broke off ({str(cause) or type(cause).__name__}); "
            "the same command completes the upload"
        ) from error


def _model_files(folder: Path, repo_id: str) -> dict[str, Path | bytes]:
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if model_type not in (*AUTO_CLASSES, *CLIP_MODEL_TYPES):
        raise PushError(f"{folder}: a model of type {model_type!r}; pushed are {', '.join(AUTO_CLASSES)} and CLIP")
    modules = [path.parent for path in folder.glob("[0-9]_*/config.json")]  # modules of sentence-transformers
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): _inside(folder, path)
        for place in (folder, *modules)
        for path in place.iterdir()
        if not path.name.startswith(".") and path.is_file() and MODEL_FILES.fullmatch(path.name)
    }
    if not any(name.endswith(".safetensors") for name in files):
        pickles = [name for name in PICKLES if (folder / name).exists()]
        raise PushError(
            f"{folder}: weights only as a pickle ({pickles[0]}), which can run code; save them as safetensors"
            if pickles
            else f"{folder}: no weights (*.safetensors)"
        )
    if model_type in AUTO_CLASSES:
        files |= _with_code(folder, config)
    files |= eval_results(folder)
    if is_ours(folder / "README.md"):  # the card there may describe other weights, or lack the name
        files["README.md"] = str(model_card(folder, repo_id)).encode()
    else:
        _card_header(folder / "README.md")
    return files


def _with_code(folder: Path, config: dict[str, Any]) -> dict[str, Path | bytes]:
    """The modules that run a model, and its settings with the names of these modules' classes added."""
    from transformers.dynamic_module_utils import get_relative_import_files

    classes = dict(AUTO_CLASSES[config["model_type"]])
    if M2SSceneForClassification.__name__ in (config.get("architectures") or []):
        classes["AutoModelForVideoClassification"] = M2SSceneForClassification
    names = {auto: f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" for auto, kind in classes.items()}
    files: dict[str, Path | bytes] = {"config.json": _json({**config, "auto_map": names})}
    if "AutoProcessor" in names and (folder / "processor_config.json").is_file():
        settings = read_json(folder / "processor_config.json")
        files["processor_config.json"] = _json({**settings, "auto_map": {"AutoProcessor": names["AutoProcessor"]}})
    for kind in classes.values():
        module = str(sys.modules[kind.__module__].__file__)
        files |= {Path(path).name: Path(path) for path in (module, *get_relative_import_files(module))}
    return files


def _dataset_files(folder: Path, with_keyframes: bool) -> dict[str, Path | bytes]:
    """The record and the shards that it names."""
    dataset = finished_dataset(folder)
    record = dataset.record
    if "keyframes" in dataset.schema.features and not with_keyframes:
        raise PushError(
            f"{folder} holds keyframes, which are pictures of the films: whoever publishes them needs the right to. "
            "If you have it, give --with-keyframes (and --private for yourself alone)"
        )
    shards = shard_names(folder, record)
    paths = {f"data/{name}": _inside(folder, folder / "data" / name) for name in shards}
    if missing := [path for path in paths.values() if not path.is_file()]:
        raise PushError(f"{missing[0]}: missing, but the record names it")
    if not shards or len(dataset.films(parts=False)) != record.get("num_films"):
        raise PushError(f"{folder}: its shards hold no films, or others than the record says; m2s info or check tells")
    return {RECORD_NAME: _inside(folder, folder / RECORD_NAME), **paths}


def _run_record(path: Path) -> bytes:
    """A run's record without paths of this machine; the command may contain some and is left out."""
    record = read_json(_inside(path.parent, path))
    return _json({name: without_paths(value) for name, value in record.items() if name != "command"})


def _inside(folder: Path, path: Path) -> Path:
    """The path unchanged; raises a PushError if it links to a file outside the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PushError(f"{path}: a link to a file outside {folder}; put a copy there")
    return path


def _dataset_card(folder: Path, repo_id: str, several: bool) -> dict[str, Path | bytes]:
    """The folder's card, or one made from its records. For several datasets, it names the Parquet files of each."""
    path = folder / "README.md"
    if is_ours(path):
        return {"README.md": str(dataset_card(folder, repo_id)).encode()}
    if _card_header(_inside(folder, path)).get("configs") or not several:
        return {"README.md": path}
    card = DatasetCard(path.read_text(encoding="utf-8"))
    card.data["configs"] = dataset_card(folder, repo_id).data["configs"]
    return {"README.md": str(card).encode()}


def _card_header(path: Path) -> dict[str, Any]:
    """The YAML header of a card; empty where it has none."""
    import yaml

    try:
        return metadata_load(path) or {}
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise PushError(f"{path}: its header cannot be read ({error})") from error


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
