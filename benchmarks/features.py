"""`extract_features` against the device's peak and a plain loop over `CLIPVisionModelWithProjection`, image by image.

    python -m benchmarks.features --model CLIP_FOLDER        about 3 minutes on two cores
    python -m benchmarks.features --model CLIP_FOLDER --device cuda --dtype bfloat16

Both load the model, read keyframes of 398×224 pixels from the same `shots` dataset, and end with the same features
(asserted before anything is timed). The result gives images/s, GFLOP/s, and the share of the rate that one large matrix
product reaches on the device in this run.

Predicted: an image costs 35.1 GFLOP in ViT-B/16 and 0.4 in m2s-clip-tiny, and 3 ms to decode and prepare. On two
cores (174 GFLOP/s) ViT-B/16 takes 200 ms, and overlapping can hide only the 3 ms: no gain. With m2s-clip-tiny, decoding
and computing take equally long, so overlapping and batches make it 1.5 to 2 times faster. A GPU at half its peak takes
0.1 ms, so the loop nearly always waits, and decoding limits extraction to 330 images/s per core.
"""

import io
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.harness import alternate, write_result, write_shots
from data_scripts.extract_features import FeatureArguments
from data_scripts.features.extraction import extract_features
from data_scripts.features.shot_features import ShotFeatures
from m2s.commands import run_command
from modeling_m2s.pipeline_m2s import open_image
from modeling_m2s.pretrained_m2s import TINY_MODEL, model_source
from modeling_m2s.shot_store_m2s import read_shots
from modeling_m2s.storage_m2s import FilmDataset

SHOTS_PER_FILM = 48
DISTINCT_IMAGES = 64


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    model: str = field(metadata={"help": "folder of CLIP ViT-B/16"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "number format that the model computes in"}
    )
    num_workers: int | None = field(
        default=None, metadata={"help": "processes that decode; default: as extract_features has it"}
    )
    runs: int = field(default=3, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.features", Options, run, argv)


def run(options: Options) -> None:
    on_cpu = options.device == "cpu"
    peak = matrix_product_gflops(torch.device(options.device), getattr(torch, options.dtype))
    results: dict[str, Any] = {"device": "cpu" if on_cpu else torch.cuda.get_device_name(options.device)}
    results |= {"threads": torch.get_num_threads(), "matrix_product_gflops": round(peak, 1)}
    for name, source, films in (("m2s-clip-tiny", TINY_MODEL, 10), ("clip-vit-base-patch16", options.model, 1)):
        with tempfile.TemporaryDirectory() as folder:
            times = compare(source, films if on_cpu else 400, options, Path(folder))
        gflop = gflop_per_image(CLIPVisionConfig.from_pretrained(model_source(source)))
        for row in times.values():
            row["images_per_second"] = round(row["images"] / row["wall_seconds"], 2)
            row["gflop_per_second"] = round(row["images_per_second"] * gflop, 1)
            row["share_of_peak"] = round(row["gflop_per_second"] / peak, 4)
        results[name] = {"gflop_per_image": round(gflop, 2), "times": times}
    write_result("features" if on_cpu else f"features-{options.device}", options.dtype, results)


def compare(source: str, num_films: int, options: Options, folder: Path) -> dict[str, dict[str, float]]:
    """Wall seconds of both ways on `num_films` films; on a GPU the loop reads the first film only."""
    shots = make_shots(folder / "shots", num_films)
    in_loop = num_films if options.device == "cpu" else 1
    outputs = (folder / f"features_{number}" for number in range(options.runs + 2))

    def plain_loop() -> dict[str, np.ndarray]:
        model = CLIPVisionModelWithProjection.from_pretrained(model_source(source)).eval().to(options.device)
        processor = AutoImageProcessor.from_pretrained(model_source(source))
        features = {}
        for film in list(shots.films().values())[:in_loop]:
            embeds = []
            for shot in read_shots(shots, film):
                pixels = processor(open_image(shot.keyframes[0]), return_tensors="pt")["pixel_values"].to(
                    options.device
                )
                with (
                    torch.inference_mode(),
                    torch.autocast(model.device.type, getattr(torch, options.dtype), options.dtype != "float32"),
                ):
                    embeds.append(model(pixels).image_embeds[0].half().cpu().numpy())
            features[film.movie_id] = np.stack(embeds)
        return features

    def extraction() -> Path:
        output = next(outputs)
        extract_features(
            FeatureArguments(
                shots.folder,
                output,
                model=source,
                dtype=options.dtype,
                device=options.device,
                num_workers=options.num_workers,
            )
        )
        return output

    found = ShotFeatures(extraction(), cache=folder / "cache")
    atol = 0.02 if options.dtype == "float32" else 0.5
    for movie_id, expected_MD in plain_loop().items():
        np.testing.assert_allclose(found[movie_id].astype(np.float32), expected_MD.astype(np.float32), atol=atol)
    times = alternate({"plain loop": plain_loop, "extract_features": extraction}, options.runs)
    times["plain loop"]["images"] = in_loop * SHOTS_PER_FILM
    times["extract_features"]["images"] = num_films * SHOTS_PER_FILM
    return times


def make_shots(folder: Path, num_films: int) -> FilmDataset:
    """Films of blurred noise; its JPEG files are about as large as those of keyframes."""
    images = []
    for seed in range(DISTINCT_IMAGES):
        pixels = np.random.default_rng(seed).integers(0, 256, (28, 50, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((398, 224), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    films = {
        f"tt{film:07d}": [images[(n + film) % DISTINCT_IMAGES] for n in range(SHOTS_PER_FILM)]
        for film in range(num_films)
    }
    return write_shots(folder, films)


def gflop_per_image(config: CLIPVisionConfig) -> float:
    """Operations of one forward pass: projections, attention and MLP of each layer, patch embedding."""
    patches = (config.image_size // config.patch_size) ** 2
    tokens, width = 1 + patches, config.hidden_size
    layer = 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * config.intermediate_size
    return (config.num_hidden_layers * layer + 6 * patches * width * config.patch_size**2) / 1e9


def matrix_product_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest of ten products of square matrices."""
    size, best = 1024 if device.type == "cpu" else 8192, 0.0
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(10):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e9)
    return best


if __name__ == "__main__":
    main()
