"""`m2s export-model`: a scene encoder as one file that runs without this package, by ONNX or by torch.export.

    export_model("m2s-clip-tiny", Path("exported"))

    exported/
      model.onnx                  model_int8.onnx and model.pt2, if asked for
      config.json                 the encoder's configuration
      preprocessor_config.json    its image processor, by which M2SSceneProcessor loads
      export.json                 shapes, versions, differences from PyTorch; there once all the rest is

The file reads `pixel_values` (B, F, C, Y, X) and `frame_mask` (B, F), as [`M2SSceneProcessor`] makes them, and gives
`pooler_output` (B, D) and `scene_embeds` (B, projection_dim). Letters of shapes are those of `modeling_m2s.py`. The
last layer computes only the class token, because both outputs come from it. The results equal those of the full layer.

`int8` is ONNX too. It stores the weights of matrix products in 8 bits, with one scale for each output, and rounds their
inputs to 8 bits at run time, with one scale. The batch shares that scale, so a scene's vectors change a little with its
batch.
"""

import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from .configuration_m2s import M2SSceneEnsembleConfig
from .ensemble_m2s import M2SSceneEnsembleModel
from .errors_m2s import UserError
from .modeling_m2s import M2SSceneModel
from .pretrained_m2s import load_encoder, name_without_folders

INPUTS, OUTPUTS = ("pixel_values", "frame_mask"), ("pooler_output", "scene_embeds")
FILES = {"onnx": "model.onnx", "int8": "model_int8.onnx", "pt2": "model.pt2"}
SETTINGS_FILES = ("config.json", "preprocessor_config.json")
RECORD_FILE = "export.json"
# The first opset with an attention operator; ONNX Runtime runs it since 1.23.
OPSET = 23
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Limits of the deviation from PyTorch: the largest difference, divided by the root mean square of PyTorch's numbers;
# for int8, which rounds, the smallest cosine between both vectors of a scene.
MAX_DIFFERENCE, MIN_COSINE_INT8 = 1e-4, 0.95
# (scenes per batch, frames per scene) on which an exported file is checked; a fixed size replaces the size here.
CHECKED_SIZES = ((1, 1), (1, 9), (3, 4), (2, 14))
# The most bytes of weights that an ONNX file can hold, with room for the graph.
MAX_ONNX_BYTES = 2**31 - 2**24

Encoder = M2SSceneModel | M2SSceneEnsembleModel
Scenes = tuple[torch.Tensor, torch.Tensor]  # pixel_values, frame_mask
Runner = Callable[[torch.Tensor, torch.Tensor], dict[str, np.ndarray]]


class ExportError(UserError, ValueError):
    """A model that cannot be exported as asked; the message gives the reason and the fix."""


@dataclass(frozen=True)
class ExportSettings:
    """`formats` are some of onnx, int8 and pt2. A size of None stays free; a file with a fixed size takes no other."""

    formats: Sequence[str] = ("onnx",)
    frames_per_scene: int | None = None
    scenes_per_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames_per_scene", "scenes_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExportError(f"{name}={value} must be at least 1")
        if not self.formats or not set(self.formats) <= set(FILES):
            raise ExportError(f"formats={list(self.formats)} must be some of {', '.join(FILES)}")


class ClassTokenLayer(nn.Module):
    """A layer of CLIP's encoder that computes the class token alone: queries and MLP for one token instead of S."""

    def __init__(self, layer: CLIPEncoderLayer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **_: Any) -> torch.Tensor:
        """Class tokens (B, 1, D) from all tokens (B, S, D) and, if some are padded, `attention_mask` (B, 1, S, S)."""
        layer: Any = self.layer
        attention = layer.self_attn
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        normed_BSD = layer.layer_norm1(hidden_states)

        def heads(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)

        queries, keys = heads(attention.q_proj(normed_BSD[:, :1])), heads(attention.k_proj(normed_BSD))
        values = heads(attention.v_proj(normed_BSD))
        context = F.scaled_dot_product_attention(queries, keys, values, mask, scale=attention.scale)
        class_B1D = hidden_states[:, :1] + attention.out_proj(context.transpose(1, 2).flatten(2))
        return class_B1D + layer.mlp(layer.layer_norm2(class_B1D))


class ExportedEncoder(nn.Module):
    """A scene encoder or an ensemble as a function from two tensors to two tensors."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval()
        self.encoder.set_attn_implementation("sdpa")
        for module in list(self.encoder.modules()):
            if isinstance(module, M2SSceneModel):
                layers = module.vision_model.encoder.layers
                layers[-1] = ClassTokenLayer(layers[-1])

    def forward(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.encoder(pixel_values, frame_mask=frame_mask)
        return {name: outputs[name] for name in OUTPUTS}


def export_model(model: str, output: Path, settings: ExportSettings | None = None) -> dict[str, Any]:
    """Export an encoder into a folder and return the content of its `export.json`.

    Files are written only if they give PyTorch's numbers. An earlier export in the folder is replaced. After a kill,
    either the earlier export is whole or `export.json` is missing, and the same command starts again.

    Args:
        model: CLIP checkpoint, scene encoder or ensemble: a folder, a Hub id, ID@REVISION or m2s-clip-tiny.
        output: folder, made when missing.

    Raises:
        ModelError: the model cannot be loaded.
        ExportError: packages are missing, the folder holds other files, the model does not fit into the format, or an
            exported file differs from PyTorch.
        StorageError: another run is writing there, or the files cannot be written.
    """
    from .storage_m2s import atomic_write, exclusive, write_json

    settings = settings or ExportSettings()
    needs_onnx = set(settings.formats) != {"pt2"}
    if needs_onnx:
        require_packages()
    refuse_other_files(output)
    encoder, image_processor, revision = load_encoder(model)
    if needs_onnx and (size := 4 * encoder.num_parameters()) > MAX_ONNX_BYTES:
        raise ExportError(f"model {model} has {size:,} bytes, ONNX takes {MAX_ONNX_BYTES:,}; use --formats pt2")
    with exclusive(output):
        with quiet_exporters():
            files = write_files(trace(encoder, settings), settings)
        checks = {name: compare(encoder, name, content, settings) for name, content in files.items()}
        record = {
            "model": name_without_folders(encoder.config.name_or_path),
            "revision": revision,
            **describe(encoder, settings),
            "opset": OPSET if needs_onnx else None,
            "versions": {name: version(name) for name in ("torch", "transformers", *(PACKAGES if needs_onnx else ()))},
            "files": {
                FILES[name]: {
                    "bytes": len(files[name]),
                    "largest_difference": max(check["largest_difference"] for check in checks[name]),
                    "smallest_cosine": min(check["smallest_cosine"] for check in checks[name]),
                    "checks": checks[name],
                }
                for name in files
            },
        }
        for name in (RECORD_FILE, *SETTINGS_FILES, *FILES.values()):  # settings alone would look like a model's
            (output / name).unlink(missing_ok=True)
        for name, content in files.items():
            with atomic_write(output / FILES[name]) as file:
                file.write(content)
        for name, part in zip(SETTINGS_FILES, (encoder.config, image_processor), strict=True):
            write_json(output / name, json.loads(part.to_json_string()))
        write_json(output / RECORD_FILE, record)
    return record


def require_packages() -> None:
    """Raise an ExportError unless the packages that write, check and run ONNX files are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ONNX needs more packages: pip install 'movies2scenes[export]' ({error}); --formats pt2 needs none"
        ) from error


def refuse_other_files(output: Path) -> None:
    """Raise an ExportError if a folder holds anything that is not part of an export."""
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file; name a folder")
    ours = {RECORD_FILE, *FILES.values(), *SETTINGS_FILES}
    there = sorted(path.name for path in output.iterdir()) if output.exists() else []
    if not {RECORD_FILE, *FILES.values()} & {*there}:
        ours = set()  # settings alone may belong to a model
    if others := [name for name in there if name not in ours and not name.startswith(".m2s-")]:
        raise ExportError(f"{output} holds {others[0]}, which is no part of an export; choose another folder")


def free_axes(settings: ExportSettings) -> dict[int, str]:
    """Names of the axes whose sizes are not fixed, by number; they are the same for both inputs."""
    fixed = settings.scenes_per_batch, settings.frames_per_scene
    return {axis: name for axis, name in enumerate(("scenes", "frames")) if fixed[axis] is None}


def trace(encoder: Encoder, settings: ExportSettings) -> torch.export.ExportedProgram:
    """The encoder as a graph in which free sizes are variables."""
    scenes, frames = settings.scenes_per_batch, settings.frames_per_scene
    # The example has sizes 2 and 3, because torch.export takes sizes of 1 for constants.
    example = random_scenes(encoder, scenes or 2, frames or 3)
    axes = {axis: torch.export.Dim(name) for axis, name in free_axes(settings).items()}
    with torch.no_grad():
        program = torch.export.export(ExportedEncoder(encoder), example, dynamic_shapes=dict.fromkeys(INPUTS, axes))
    program.example_inputs = None  # otherwise the file would hold them
    return program


def write_files(program: torch.export.ExportedProgram, settings: ExportSettings) -> dict[str, bytes]:
    """The content of a file for each format."""
    files = {}
    if "pt2" in settings.formats:
        file = io.BytesIO()
        torch.export.save(program, file)
        files["pt2"] = file.getvalue()
    if set(settings.formats) != {"pt2"}:
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=dict.fromkeys(INPUTS, free_axes(settings)),
            verbose=False,
        )
        assert onnx_program is not None
        files["onnx"] = onnx_program.model_proto.SerializeToString()
    if "int8" in settings.formats:
        files["int8"] = quantize(files["onnx"])
    return {name: files[name] for name in dict.fromkeys(settings.formats)}


def quantize(content: bytes) -> bytes:
    """A file in ONNX's format with the weights of its matrix products in 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        whole, quantized = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        whole.write_bytes(content)
        quantize_dynamic(
            whole, quantized, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
        )
        return quantized.read_bytes()


def runner(format_name: str, content: bytes) -> Runner:
    """A function that runs a file of this format, given its content."""
    if format_name == "pt2":
        module = torch.export.load(io.BytesIO(content)).module()
        return lambda *scenes: {name: value.numpy() for name, value in module(*scenes).items()}

    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*scenes: torch.Tensor) -> dict[str, np.ndarray]:
        arrays = {name: tensor.numpy() for name, tensor in zip(INPUTS, scenes, strict=True)}
        return dict(zip(OUTPUTS, session.run(OUTPUTS, arrays), strict=True))

    return run


@torch.no_grad()
def compare(encoder: Encoder, format_name: str, content: bytes, settings: ExportSettings) -> list[dict[str, float]]:
    """Compare a file with PyTorch on random scenes of several sizes.

    Returns:
        For each size: `largest_difference`, divided by the root mean square of PyTorch's numbers, and
        `smallest_cosine` between both vectors of a scene.

    Raises:
        ExportError: the file is further from PyTorch than allowed, or gives values that are not numbers.
    """
    run, checks = runner(format_name, content), []
    fixed = settings.scenes_per_batch, settings.frames_per_scene
    for scenes, frames in dict.fromkeys((fixed[0] or size[0], fixed[1] or size[1]) for size in CHECKED_SIZES):
        pixel_values, frame_mask = random_scenes(encoder, scenes, frames)
        outputs, found = encoder(pixel_values, frame_mask=frame_mask), run(pixel_values, frame_mask)
        differences, cosines = [], []
        for name in OUTPUTS:
            expected, got = outputs[name], torch.from_numpy(found[name])
            differences.append(((got - expected).abs().max() / expected.square().mean().sqrt()).item())
            cosines.append(F.cosine_similarity(got, expected).min().item())
        difference, cosine = max(differences), min(cosines)
        if not (cosine >= MIN_COSINE_INT8 if format_name == "int8" else difference <= MAX_DIFFERENCE):
            raise ExportError(
                f"{FILES[format_name]} differs from PyTorch on {scenes} scenes of {frames} frames: by {difference:.1e} "
                f"root mean squares (allowed {MAX_DIFFERENCE:.0e}), smallest cosine {cosine:.4f} (allowed for int8 "
                f"{MIN_COSINE_INT8}); nothing was written"
            )
        sizes = {"scenes": scenes, "frames": frames}
        checks.append({**sizes, "largest_difference": float(f"{difference:.2e}"), "smallest_cosine": round(cosine, 6)})
    return checks


def random_scenes(encoder: Encoder, scenes: int, frames: int) -> Scenes:
    """Normally distributed pixels and a mask; the first scene has all `frames`, the others have random lengths."""
    generator = torch.Generator().manual_seed(frames)
    size, channels = encoder.config.image_size, num_channels(encoder)
    pixel_values = torch.randn(scenes, frames, channels, size, size, generator=generator)
    lengths = torch.randint(1, frames + 1, (scenes,), generator=generator)
    lengths[0] = frames
    return pixel_values, torch.arange(frames) < lengths[:, None]


def num_channels(encoder: Encoder) -> int:
    """Color channels of the frames."""
    config = encoder.config
    first = config.member_configs()[0] if isinstance(config, M2SSceneEnsembleConfig) else config
    return first.vision_config.num_channels


def describe(encoder: Encoder, settings: ExportSettings) -> dict[str, Any]:
    """The sizes of inputs and outputs, by name; a free size is given by its axis's name."""
    scenes, frames = settings.scenes_per_batch or "scenes", settings.frames_per_scene or "frames"
    size = encoder.config.image_size
    shapes = ([scenes, frames, num_channels(encoder), size, size], [scenes, frames])
    widths = (encoder.config.hidden_size, encoder.config.projection_dim)
    return {
        "inputs": dict(zip(INPUTS, shapes, strict=True)),
        "outputs": {name: [scenes, width] for name, width in zip(OUTPUTS, widths, strict=True)},
    }


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence PyTorch's exporters; their warnings are about packages and operators that the model does not use."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
