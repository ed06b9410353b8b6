"""Seconds to embed one scene of nine shots on one core: m2s-clip-tiny, and CLIP ViT-B/16 beside it.

    python -m benchmarks.encoders --model CLIP_FOLDER        about a minute

The model alone (from pixel values) and the whole pipeline (from JPEG keyframes, as the command line reads them) are
timed on a generated scene, on one thread.
"""

from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.harness import alternate, write_result
from m2s.commands import run_command

NUM_SHOTS = 9


def keyframes() -> list[bytes]:
    random = np.random.default_rng(0)
    files = []
    for _ in range(NUM_SHOTS):
        file = BytesIO()
        coarse = Image.fromarray(random.integers(0, 255, (14, 25, 3), dtype=np.uint8))
        coarse.resize((398, 224), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    model: str = field(metadata={"help": "folder of CLIP ViT-B/16"})
    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.encoders", Options, run, argv)


def run(options: Options) -> None:
    import torch
    from transformers import CLIPImageProcessor

    from modeling_m2s import M2SSceneModel, tiny_model
    from modeling_m2s.pipeline_m2s import SceneEmbeddingPipeline, open_image

    torch.set_num_threads(1)
    files = keyframes()
    candidates, facts = {}, {}
    for name, source in (("m2s-clip-tiny", tiny_model()), ("CLIP ViT-B/16", options.model)):
        model = M2SSceneModel.from_pretrained(source, dtype=torch.float32).eval()
        pipeline = SceneEmbeddingPipeline(
            model, image_processor=CLIPImageProcessor.from_pretrained(source), device="cpu"
        )

        def from_jpeg(pipeline=pipeline):
            pixels = pipeline.scene_processor([[open_image(file) for file in files]])["pixel_values"]
            return pipeline.forward({"pixel_values": pixels, "scenes": [{}]})

        pixels = pipeline.scene_processor([[open_image(file) for file in files]])["pixel_values"]
        candidates[f"{name}, from pixels"] = torch.inference_mode()(lambda model=model, pixels=pixels: model(pixels))
        candidates[f"{name}, from JPEG"] = from_jpeg
        grid = model.config.vision_config.image_size // model.config.vision_config.patch_size
        parameters = sum(parameter.numel() for parameter in model.parameters())
        facts[name] = {"parameters": parameters, "tokens": NUM_SHOTS * grid**2 + 1}
    times = alternate(candidates, options.runs)
    write_result("encoders", "float32", {"threads": 1, "models": facts, "scene_of_nine_shots": times})


if __name__ == "__main__":
    main()
