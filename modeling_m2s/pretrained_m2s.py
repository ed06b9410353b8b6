"""Encoders by name: any CLIP checkpoint or scene encoder, and the one that ships with the package."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors_m2s import UserError

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

    from .ensemble_m2s import M2SSceneEnsembleModel
    from .modeling_m2s import M2SSceneModel

TINY_MODEL = "m2s-clip-tiny"
# What decides on embeddings besides the weights.
REVISED_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")


class ModelError(UserError, ValueError):
    """A model that cannot be loaded; the message names it and the reason in one line."""


def tiny_model() -> str:
    """The folder of m2s-clip-tiny, a CLIP image tower of 4.3 million parameters, distilled from CLIP ViT-B/16.

    For research and demonstration: `model_cards/m2s-clip-tiny/README.md` says what it was trained on and what it
    cannot do. It loads like any CLIP checkpoint: `M2SSceneModel.from_pretrained(tiny_model())`.
    """
    return str(Path(__file__).resolve().parent / "m2s_clip_tiny")


def model_source(name: str) -> str:
    """What transformers loads for a model's name: a folder or Hub id, as given, or the folder of m2s-clip-tiny."""
    return tiny_model() if name == TINY_MODEL else name


def model_name(source: str) -> str:
    """The other way round, for records: the folder of m2s-clip-tiny differs between machines, its name does not."""
    return TINY_MODEL if source == tiny_model() else source


def load_encoder(
    name: str, position_interpolation: str | None = None, dtype: str = "float32"
) -> "tuple[M2SSceneModel | M2SSceneEnsembleModel, BaseImageProcessor, str]":
    """A scene encoder or an ensemble in evaluation mode on the CPU, its image processor, and its weights' revision.

    Images are resized by Pillow, whether or not torchvision is installed, so that embeddings do not depend on it.

    Args:
        name: CLIP checkpoint, scene encoder or ensemble: a folder, a Hub id, or m2s-clip-tiny.
        position_interpolation: how position embeddings serve several frames; by default the model's own way.

    Raises:
        ModelError: it cannot be loaded.
    """
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, PreTrainedConfig

    from .ensemble_m2s import M2SSceneEnsembleModel
    from .modeling_m2s import M2SSceneModel

    source = model_source(name)
    if os.path.isdir(source):
        source = os.path.abspath(source)  # records name it, and they outlive the working directory
    settings: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if position_interpolation is not None:
        settings["position_interpolation"] = position_interpolation
    try:
        with quiet_transformers():
            found = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
            is_ensemble = found == M2SSceneEnsembleModel.config_class.model_type
            if is_ensemble and position_interpolation is not None:
                raise ValueError("it is an ensemble, whose members have a position interpolation each")
            model_class = M2SSceneEnsembleModel if is_ensemble else M2SSceneModel
            encoder = model_class.from_pretrained(source, **settings).eval()
            image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    return encoder, image_processor, model_revision(source, getattr(encoder.config, "_commit_hash", None))


def model_revision(folder_or_id: str, commit: str | None) -> str:
    """What tells an encoder's weights from others: the Hub's commit, or a hash of a folder's weights and settings."""
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
    """No warnings and bars while a model loads; what went wrong is raised."""
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
