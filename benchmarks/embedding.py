"""Scenes embedded by the pipeline against a plain loop over `CLIPVisionModel`, one scene at a time.

    python -m benchmarks.embedding --assets ASSETS --model CLIP_FOLDER        about 4 minutes on two cores

Both read the same keyframes as JPEG, process them with CLIP's image processor and end with the same vectors (asserted).
The loop stacks a scene's frames into one tall image. The scenes are the first 36 shots of Big Buck Bunny, nine per
scene. The pipeline is timed with several batch sizes.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.harness import alternate, write_result
from m2s.commands import run_command

GFLOP_PER_SCENE = 416.7  # nine frames of ViT-B/16, forward


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    assets: Path = field(metadata={"help": "folder of the assets, with videos/ in it"})
    model: str = field(metadata={"help": "folder of CLIP ViT-B/16"})
    runs: int = field(default=3, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.embedding", Options, run, argv)


def run(options: Options) -> None:
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionModel

    from modeling_m2s import M2SSceneModel
    from modeling_m2s.pipeline_m2s import SceneEmbeddingPipeline, open_image
    from modeling_m2s.shots_m2s import detect_shots

    film = detect_shots(options.assets / "videos/big_buck_bunny_full_448x252.mp4")
    film.shots = film.shots[:36]
    clip = CLIPVisionModel.from_pretrained(options.model).eval()
    image_processor = CLIPImageProcessor.from_pretrained(options.model)
    encoder = M2SSceneModel.from_pretrained(options.model).eval()
    pipeline = SceneEmbeddingPipeline(encoder, image_processor=image_processor, device="cpu")

    @torch.inference_mode()
    def plain_loop() -> np.ndarray:
        embeddings = []
        for first in range(0, len(film.shots), 9):
            images = [open_image(shot.keyframes[0]) for shot in film.shots[first : first + 9]]
            pixels = image_processor(images=images, return_tensors="pt")["pixel_values"]
            tall = pixels.transpose(0, 1).flatten(1, 2)[None]
            embeddings.append(clip(tall, interpolate_pos_encoding=True).pooler_output[0].numpy())
        return np.stack(embeddings)

    def by_pipeline(scenes_per_batch: int) -> np.ndarray:
        return np.stack([scene["embedding"] for scene in pipeline(film, scenes_per_batch=scenes_per_batch)])

    assert np.allclose(plain_loop(), by_pipeline(4), atol=1e-3)
    candidates = {"plain loop over CLIPVisionModel": plain_loop}
    for size in (1, 2, 4):
        candidates[f"pipeline, {size} scenes a batch"] = lambda size=size: by_pipeline(size)
    times = alternate(candidates, options.runs)
    for row in times.values():
        row["scenes_per_second"] = round(4 / row["wall_seconds"], 3)
        row["gflop_per_second"] = round(4 * GFLOP_PER_SCENE / row["wall_seconds"], 1)
    write_result("embedding", "float32", {"scenes": 4, "threads": torch.get_num_threads(), "times": times})


if __name__ == "__main__":
    main()
