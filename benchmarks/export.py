"""An exported encoder against PyTorch: nine-shot scenes a second on a CPU, and the loss in retrieval through 8 bits.

    python -m benchmarks.export --photographs $M2S_ASSETS/images/photographs \\
        --video $M2S_ASSETS/videos/big_buck_bunny_full_448x252.mp4        about 10 minutes on two quiet cores

Each run embeds eight scenes, one at a time or in one batch, by every way in turn. The exported files compute only the
class token in the last layer, as does PyTorch with "class token alone" in its name; plain PyTorch computes all tokens
there. OpenVINO reads the same model.onnx; it is timed if it is installed (`pip install openvino`).

Retrieval is measured twice. On MiniPlaces' test part: does the nearest other picture have the same class? On a film's
nine-shot windows, every three shots: is the nearest other scene the one that PyTorch finds?

Predicted: a nine-shot scene of m2s-clip-tiny costs 4.5 GFLOP, and computing the class token alone spares 17 % of them.
Matrix products run near the processor's peak everywhere, so ONNX Runtime gains little beyond that: 1.3 times. 8-bit
products have four times the rate. Attention and everything between the products stays in float32, which leaves 2 to
2.5 times.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import RESULTS, alternate, write_result
from eval.images.comparison import read_test_photographs
from eval.images.measures import neighbor_agreement, spread
from m2s.commands import run_command
from modeling_m2s.export_m2s import INPUTS, ExportedEncoder, ExportSettings, export_model
from modeling_m2s.pipeline_m2s import scene_windows
from modeling_m2s.pretrained_m2s import TINY_MODEL, load_encoder
from modeling_m2s.processing_m2s import M2SSceneProcessor
from modeling_m2s.shots_m2s import detect_shots

NUM_SHOTS, NUM_SCENES = 9, 8
PYTORCH, ONNX, INT8 = "PyTorch", "ONNX Runtime", "ONNX Runtime, int8"
Way = Callable[[torch.Tensor, torch.Tensor], np.ndarray]  # pixel_values, frame_mask → pooler_output


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    photographs: Path = field(metadata={"help": "folder of photographs with manifest.tsv"})
    video: Path = field(metadata={"help": "a video, for scenes to retrieve"})
    model: str = field(default=TINY_MODEL, metadata={"help": "scene encoder or CLIP checkpoint: a folder or a Hub id"})
    threads: int = field(default=2, metadata={"help": "number of threads"})
    runs: int = field(default=15, metadata={"help": "number of runs of each candidate, in turn"})
    without_compile: bool = field(default=False, metadata={"help": "leave torch.compile out"})
    results: Path = field(default=RESULTS, metadata={"help": "folder for the result file"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.export", Options, run, argv)


def run(options: Options) -> None:
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder)
        files = export_model(options.model, exported, ExportSettings(("onnx", "int8", "pt2")))["files"]
        encoder, image_processor, revision = load_encoder(options.model)
        ways = {PYTORCH: pytorch(encoder), **exported_ways(exported, options.threads)}
        ways["PyTorch, class token alone"] = pytorch(ExportedEncoder(encoder))
        if not options.without_compile:
            ways["torch.compile, class token alone"] = pytorch(torch.compile(ExportedEncoder(encoder), dynamic=False))
        speed = measure_speed(ways, encoder.config.image_size, options.runs)
        processor = M2SSceneProcessor(image_processor)
        retrieval = {
            "photographs": retrieve_photographs(ways, processor, options.photographs),
            "scenes_of_the_film": agree_on_scenes(ways, processor, options.video),
        }
    checks = {
        name: {key: facts[key] for key in ("bytes", "largest_difference", "smallest_cosine")}
        for name, facts in files.items()
    }
    content = {"model": options.model, "revision": revision, "threads": options.threads, "files": checks}
    load_average = {"before": load, "after": os.getloadavg()[0]}
    content |= {"load_average": load_average, "scenes_per_second": speed, "retrieval": retrieval}
    write_result("export", "float32", content, options.results)


@torch.inference_mode()
def run_pytorch(model: torch.nn.Module, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> np.ndarray:
    return model(pixel_values, frame_mask)["pooler_output"].numpy()


def pytorch(model: torch.nn.Module) -> Way:
    return partial(run_pytorch, model)


def exported_ways(folder: Path, threads: int) -> dict[str, Way]:
    """The exported files by name, each run on `threads` threads."""
    import onnxruntime

    def run_onnx(session: Any, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> np.ndarray:
        return session.run(
            ["pooler_output"], dict(zip(INPUTS, (pixel_values.numpy(), frame_mask.numpy()), strict=True))
        )[0]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads don't take the next way's time
    ways: dict[str, Way] = {"torch.export": pytorch(torch.export.load(folder / "model.pt2").module())}
    for name, file in ((ONNX, "model.onnx"), (INT8, "model_int8.onnx")):
        ways[name] = partial(run_onnx, onnxruntime.InferenceSession(folder / file, options))
    try:
        import openvino
    except ImportError:
        return ways
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", settings)

    def run_openvino(pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> np.ndarray:
        return compiled(dict(zip(INPUTS, (pixel_values.numpy(), frame_mask.numpy()), strict=True)))["pooler_output"]

    return {**ways, "OpenVINO": run_openvino}


def measure_speed(ways: dict[str, Way], image_size: int, runs: int) -> dict[str, dict[str, dict[str, float]]]:
    """Scenes a second by batch size and way, and their ratio to PyTorch's median."""
    pixel_values = torch.randn(
        NUM_SCENES, NUM_SHOTS, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)
    )
    frame_mask = torch.ones(NUM_SCENES, NUM_SHOTS, dtype=torch.bool)

    def embed(way: Way, batch_size: int) -> np.ndarray:
        batches = zip(pixel_values.split(batch_size), frame_mask.split(batch_size), strict=True)
        return np.concatenate([way(*batch) for batch in batches])

    speed = {}
    for batch_size in (1, NUM_SCENES):
        expected = embed(ways[PYTORCH], batch_size)
        for name, way in ways.items():
            if name != INT8:
                np.testing.assert_allclose(embed(way, batch_size), expected, atol=1e-4 * np.abs(expected).max())
        times = alternate({name: partial(embed, way, batch_size) for name, way in ways.items()}, runs)
        medians = {name: row["wall_seconds"] for name, row in times.items()}
        speed[f"batches_of_{batch_size}"] = {
            name: {
                "median": round(NUM_SCENES / medians[name], 1),
                "min": round(NUM_SCENES / row["wall_max"], 1),
                "max": round(NUM_SCENES / row["wall_min"], 1),
                "times_pytorch": round(medians[PYTORCH] / medians[name], 2),
                "times_pytorch_in_processor_seconds": round(times[PYTORCH]["cpu_seconds"] / row["cpu_seconds"], 2),
            }
            for name, row in times.items()
        }
    return speed


def embed_scenes(way: Way, processor: M2SSceneProcessor, scenes: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """`pooler_output` (scenes, D), one scene at a time, as `m2s embed` computes it on a CPU."""
    return np.concatenate([way(*(processor([scene])[name] for name in INPUTS)) for scene in scenes])


def retrieve_photographs(ways: dict[str, Way], processor: M2SSceneProcessor, folder: Path) -> dict[str, Any]:
    """Share of pictures whose nearest other picture has their class, before and after subtracting the mean of all."""
    read = read_test_photographs(folder)
    found: dict[str, Any] = {"pictures": len(read.images), "classes": len({*read.labels})}
    for name in (PYTORCH, ONNX, INT8):
        embeds_ND = embed_scenes(ways[name], processor, [[image] for image in read.images])
        figures = spread(embeds_ND, read.labels, read.groups)
        found[name] = {key: round(figures[key], 4) for key in ("retrieval", "centered")}
    return found


def agree_on_scenes(ways: dict[str, Way], processor: M2SSceneProcessor, video: Path) -> dict[str, Any]:
    """How often each way finds the same nearest scenes as PyTorch."""
    shots = [Image.open(BytesIO(shot.keyframes[0])) for shot in detect_shots(video).shots if shot.keyframes]
    scenes = [shots[first : first + length] for first, length in scene_windows(len(shots), NUM_SHOTS, stride=3)]
    expected_ND = embed_scenes(ways[PYTORCH], processor, scenes)
    found: dict[str, Any] = {"scenes": len(scenes)}
    for name in (ONNX, INT8):
        embeds_ND = embed_scenes(ways[name], processor, scenes)
        cosines = (embeds_ND * expected_ND).sum(1)
        cosines /= np.linalg.norm(embeds_ND, axis=1) * np.linalg.norm(expected_ND, axis=1)
        agreement = {key: round(value, 4) for key, value in neighbor_agreement(embeds_ND, expected_ND).items()}
        found[name] = {"smallest_cosine": round(float(cosines.min()), 4), **agreement}
    return found


if __name__ == "__main__":
    main()
