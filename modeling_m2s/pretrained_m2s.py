"""Encoders by name: any CLIP checkpoint or scene encoder, and the one that ships with the package."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors_m2s import UserError

if TYPE_CHECKING:
    import torch
    from transformers import BaseImageProcessor, CLIPTextModelWithProjection, PreTrainedTokenizerBase

    from .ensemble_m2s import M2SSceneEnsembleModel
    from .modeling_m2s import M2SSceneForClassification, M2SSceneModel

TINY_MODEL = "m2s-clip-tiny"
# Files that determine embeddings, besides the weights.
REVISED_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class ModelError(UserError, ValueError):
    """A model that cannot be loaded; the message names it and the reason in one line."""


def tiny_model() -> str:
    """The folder of m2s-clip-tiny, a CLIP image tower of 4.3 million parameters, distilled from CLIP ViT-B/16.

    For research and demonstration: `model_cards/m2s-clip-tiny/README.md` says what it was trained on and what it
    cannot do. `M2SSceneModel.from_pretrained` and transformers' `AutoModel` load it as a scene encoder, transformers'
    `CLIPVisionModelWithProjection` as an image tower.
    """
    return str(Path(__file__).resolve().parent / "m2s_clip_tiny")


def model_source(name: str) -> str:
    """The source that transformers loads: the given folder or Hub id, or the folder of m2s-clip-tiny for its name."""
    return tiny_model() if name == TINY_MODEL else name


def model_name(source: str) -> str:
    """The inverse of `model_source`, for records: m2s-clip-tiny's folder varies by machine, its name does not."""
    return TINY_MODEL if source == tiny_model() else source


def pinned(name: str, revision: str) -> str:
    """The model that a record names, as `load_encoder` takes it: a model of the Hub with the commit that was used.

    Its repository may have newer commits since, if only of the card.
    """
    is_folder = os.path.isabs(name) or os.path.isdir(model_source(name))
    return name if is_folder else f"{name.partition('@')[0]}@{revision}"


def name_without_folders(source: str) -> str:
    """A model's name for records that may leave this machine; a folder is named by the last part of its path."""
    name = model_name(source)
    return name if name == TINY_MODEL or not os.path.isdir(name) else Path(name).resolve().name


def computing_format(bf16: bool, device: "torch.device") -> "torch.dtype":
    """bfloat16 if it is wanted and the device has instructions for it, else float32.

    A processor without such instructions takes up to forty times as long in bfloat16 as in float32.
    """
    import torch

    is_fast = device.type != "cpu" or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.bfloat16 if bf16 and is_fast else torch.float32


def load_encoder(
    name: str, position_interpolation: str | None = None, dtype: str = "float32"
) -> "tuple[M2SSceneModel | M2SSceneEnsembleModel, BaseImageProcessor, str]":
    """A scene encoder or an ensemble in evaluation mode on the CPU, its image processor, and its weights' revision.

    Images are resized by Pillow, whether or not torchvision is installed, so that embeddings do not depend on it.
    Neither pickles nor code are loaded from a folder or repository. The Hub's cache is used if there is no network.

    Args:
        name: CLIP checkpoint, scene encoder or ensemble: a folder, a Hub id, or m2s-clip-tiny. `ID@REVISION` pins a
            commit, tag or branch of the Hub.
        position_interpolation: how position embeddings serve several frames; by default the model's own way.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoImageProcessor, PreTrainedConfig

    from .ensemble_m2s import M2SSceneEnsembleModel
    from .modeling_m2s import M2SSceneModel

    source, revision = _source(name)
    settings: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "revision": revision}
    if position_interpolation is not None:
        settings["position_interpolation"] = position_interpolation
    with loading(name), quiet_transformers():
        config = PreTrainedConfig.get_config_dict(source, revision=revision)[0]
        _refuse_pickles(source, revision, config)
        is_ensemble = config.get("model_type") == M2SSceneEnsembleModel.config_class.model_type
        if is_ensemble and position_interpolation is not None:
            raise ValueError("it is an ensemble, whose members have a position interpolation each")
        model_class = M2SSceneEnsembleModel if is_ensemble else M2SSceneModel
        encoder = model_class.from_pretrained(source, **settings).eval()
        image_processor = AutoImageProcessor.from_pretrained(
            source, backend="pil", revision=revision, trust_remote_code=False
        )
    if "@" in name and revision:
        encoder.config.name_or_path = name  # records name the revision that was asked for
    return encoder, image_processor, model_revision(source, revision)


def load_text_tower(
    name: str, local_files_only: bool = False
) -> "tuple[CLIPTextModelWithProjection, PreTrainedTokenizerBase, str]":
    """The text tower of a CLIP model in evaluation mode on the CPU, its tokenizer, and the model's revision.

    Args:
        name: a CLIP checkpoint with both towers, named as in `load_encoder`.
        local_files_only: read the Hub's cache and ask the Hub for nothing.

    Raises:
        ModelError: it cannot be loaded, or it has no text tower: it is an image tower, a scene encoder or no CLIP.
    """
    from transformers import AutoTokenizer, CLIPTextModelWithProjection, PreTrainedConfig

    source, commit = model_source(name), None
    if not os.path.isdir(source):
        source, commit = _download(name, local_files_only)
    settings: dict[str, Any] = {"revision": commit, "local_files_only": local_files_only}
    with loading(name), quiet_transformers():
        config = PreTrainedConfig.get_config_dict(source, **settings)[0]
        kind = str(config.get("model_type"))
        if kind.startswith("m2s_"):
            raise ValueError(
                "it is a scene encoder, which cannot be asked in words: its space has moved away from the words of the "
                "CLIP that it began as; name that CLIP, such as openai/clip-vit-base-patch16"
            )
        if kind != "clip":
            raise ValueError(f"it is of type {kind} and has no text tower of CLIP; name a model of type clip")
        _refuse_pickles(source, commit, config)
        model = CLIPTextModelWithProjection.from_pretrained(source, use_safetensors=True, **settings).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **settings)
    return model, tokenizer, model_revision(source, commit)


def load_classifier(name: str) -> "tuple[M2SSceneForClassification, BaseImageProcessor]":
    """A classifier of scenes in evaluation mode on the CPU, as `eval.probe --export` saves it, and its image processor.

    Args:
        name: a folder or a Hub id, as in `load_encoder`.

    Raises:
        ModelError: it cannot be loaded, or is another kind of model.
    """
    from transformers import AutoImageProcessor, PreTrainedConfig

    from .modeling_m2s import M2SSceneForClassification

    source, revision = _source(name)
    with loading(name), quiet_transformers():
        config = PreTrainedConfig.get_config_dict(source, revision=revision)[0]
        kind = M2SSceneForClassification.__name__
        if kind not in (found := config.get("architectures") or [config.get("model_type", "unknown")]):
            raise ValueError(
                f"it is no classifier of scenes, but {', '.join(found)}; eval.probe --export saves a {kind}"
            )
        _refuse_pickles(source, revision, config)
        model = M2SSceneForClassification.from_pretrained(source, use_safetensors=True, revision=revision).eval()
        image_processor = AutoImageProcessor.from_pretrained(
            source, backend="pil", revision=revision, trust_remote_code=False
        )
    return model, image_processor


def _source(name: str) -> tuple[str, str | None]:
    """A model's name as transformers loads it: an absolute path, or a Hub id with its commit."""
    source = model_source(name)
    if os.path.isdir(source):
        return os.path.abspath(source), None  # records name it, and they outlive the working directory
    return _download(name)


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what goes wrong inside into a `ModelError` that names the model; transformers' messages often do not."""
    from huggingface_hub.errors import HTTPError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]  # a timeout has no message
        raise ModelError(f"model {name} cannot be loaded: {reason}") from error


def _download(name: str, local_files_only: bool = False) -> tuple[str, str]:
    """Download `ID` or `ID@REVISION` from the Hub, unless it is in the cache; return the id and the commit.

    Raises:
        ModelError: the model cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, HTTPError

    repo, _, revision = name.partition("@")
    try:
        settings: dict[str, Any] = {"local_files_only": local_files_only}
        commit = Path(hf_hub_download(repo, "config.json", revision=revision or None, **settings)).parent.name
        with contextlib.suppress(EntryNotFoundError):  # weights in several files or another format
            hf_hub_download(repo, WEIGHTS, revision=commit, **settings)
    except HFValidationError:
        reason = "it is neither a folder nor a Hub id, which reads USER/NAME or USER/NAME@REVISION"
    except (HfHubHTTPError, EntryNotFoundError, HTTPError, OSError) as error:
        reason = _why_not_downloaded(error, revision)
    else:
        return repo, commit
    raise ModelError(f"model {name} cannot be loaded: {reason}")


def _why_not_downloaded(error: Exception, revision: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "access to this repository has to be asked for on its page"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such folder or repository, or the repository is private: run hf auth login, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {revision}"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return "there is no such folder, and the Hub cannot be reached and its cache does not hold it"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no config.json"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"the Hub refuses the token ({error.response.status_code}): run hf auth login, or set HF_TOKEN"
    return f"the download broke off ({str(error) or type(error).__name__}); the same command continues it"


def _refuse_pickles(source: str, commit: str | None, config: dict[str, Any]) -> None:
    """Raise a ValueError if transformers would read weights from a pickle, or from files elsewhere."""
    named = [config["transformers_weights"]] if config.get("transformers_weights") else []
    weights = _find_file(source, commit, WEIGHTS)
    if not weights and (index := _find_file(source, commit, WEIGHTS_INDEX)):
        weight_map = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
        named += weight_map.values() if isinstance(weight_map, dict) else [weight_map]
    for file in named:
        plain = isinstance(file, str) and os.path.basename(file) == file
        if not plain or not file.endswith((".safetensors", WEIGHTS_INDEX)):
            raise ValueError(f"it names {file!r} as a file of its weights; only safetensors beside it are loaded")
    if pickles := [file for file in PICKLES if not named and not weights and _find_file(source, commit, file)]:
        raise ValueError(
            f"it has its weights only as a pickle ({pickles[0]}), which can run code and is never loaded; "
            f"ask its author for {WEIGHTS}"
        )


def _find_file(source: str, commit: str | None, file: str) -> Path | None:
    """The path of a folder's file or, with a commit, a Hub repository's; None if there is none.

    A file of a repository is downloaded into the cache, unless it is a pickle.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from transformers.utils import has_file

    if commit is None or file in PICKLES:
        there = Path(source, file).is_file() if commit is None else has_file(source, file, revision=commit)
        return Path(source, file) if there else None
    try:
        return Path(hf_hub_download(source, file, revision=commit))
    except EntryNotFoundError:
        return None


def model_revision(folder_or_id: str, commit: str | None) -> str:
    """An id of an encoder's weights: the Hub's commit, or a hash of a folder's weights and settings."""
    if commit:
        return commit
    digest = hashlib.sha256()
    for path in sorted(Path(folder_or_id).glob("*")):
        if path.suffix == ".safetensors" or path.name in REVISED_FILES:
            digest.update(path.name.encode() + b"\0")
            with open(path, "rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings and progress bars while a model loads; errors are still raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
