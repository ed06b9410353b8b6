"""Measure a small image encoder beside its teacher and beside baselines that have learned nothing.

    python -m eval.image_encoders --student modeling_m2s/m2s_clip_tiny --teacher CLIP_FOLDER \\
        --places $M2S_ASSETS/images/scene15 --video $M2S_ASSETS/videos/sintel_trailer_480x204.mp4 --output results.json

- Places: `PLACES/train/CLASS/*` is gallery and probe set, `PLACES/test/CLASS/*` are queries. Retrieval is the class of
  the one nearest neighbor by cosine; the probe is a logistic regression on standardized embeddings.
- Film: the nearest other shot to each shot of a video that no one trained on; how often it is the teacher's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from modeling_m2s.commands_m2s import run_command
from modeling_m2s.shots_m2s import detect_shots
from modeling_m2s.storage_m2s import write_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
Encoder = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass
class EncoderArguments:
    student: str = field(metadata={"help": "folder or Hub id of the small CLIP image tower"})
    teacher: str = field(metadata={"help": "folder or Hub id of the CLIP it was distilled from"})
    places: Path = field(metadata={"help": "folder with train/CLASS/* and test/CLASS/* images"})
    video: Path = field(metadata={"help": "a video that the student was not trained on"})
    output: Path | None = field(default=None, metadata={"help": "JSON file for the results"})


def clip_encoder(
    model: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil, batch_size: int = 32
) -> Encoder:
    """Images to `image_embeds` (images, projection_dim), float32, as they are."""

    @torch.inference_mode()
    def encode(images: Sequence[Image.Image]) -> np.ndarray:
        batches = [list(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        return np.concatenate(
            [model(**processor(batch, return_tensors="pt")).image_embeds.numpy() for batch in batches]
        )

    return encode


def pixel_encoder(images: Sequence[Image.Image]) -> np.ndarray:
    """8×8 RGB pixels (images, 192), centered and of unit contrast: what one has without learning."""
    pixels = np.stack([np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32).ravel() for image in images])
    pixels -= pixels.mean(axis=1, keepdims=True)
    return pixels / (pixels.std(axis=1, keepdims=True) + 1e-6)


def read_classes(folder: Path) -> tuple[list[Image.Image], list[str]]:
    """Images of `folder/CLASS/*` and their classes, in order of the names.

    Raises:
        ValueError: there are none.
    """
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no images in folders of classes")
    return [Image.open(path).convert("RGB") for path in paths], [path.parent.name for path in paths]


def classify(
    gallery_ND: np.ndarray, gallery_classes: list[str], queries_MD: np.ndarray, classes: list[str]
) -> dict[str, float]:
    """Shares of queries whose class is that of the nearest gallery item, and that a linear probe names right."""
    neighbors = KNeighborsClassifier(1, metric="cosine").fit(gallery_ND, gallery_classes)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(gallery_ND, gallery_classes)
    return {"retrieval": neighbors.score(queries_MD, classes), "probe": probe.score(queries_MD, classes)}


def neighbor_agreement(embeds_ND: np.ndarray, reference_ND: np.ndarray) -> dict[str, float]:
    """How far two encoders agree on which of N items are alike, by cosine.

    Returns:
        `nearest`: share of items with the same nearest other item. `nearest_of_three`: share whose nearest is among
        the reference's three nearest. `correlation`: Spearman's, of the similarities of all pairs.
    """
    similarities = [_similarities(embeds) for embeds in (embeds_ND, reference_ND)]
    nearest = similarities[0].argmax(1)
    order = np.argsort(-similarities[1], axis=1, kind="stable")
    pairs = np.triu_indices(len(embeds_ND), 1)
    return {
        "nearest": float((nearest == order[:, 0]).mean()),
        "nearest_of_three": float((nearest[:, None] == order[:, :3]).any(1).mean()),
        "correlation": float(spearmanr(*(matrix[pairs] for matrix in similarities)).statistic),
    }


def _similarities(embeds_ND: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(embeds_ND, axis=1, keepdims=True)
    unit_ND = embeds_ND / np.maximum(lengths, 1e-9)  # pixels of a black frame have no contrast and no direction
    similarities_NN = unit_ND @ unit_ND.T
    np.fill_diagonal(similarities_NN, -np.inf)
    return similarities_NN


def random_student(student: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(student.config).eval()


def measure(arguments: EncoderArguments) -> dict[str, Any]:
    """Every encoder on every task; `chance` is what guessing gives."""
    models = {
        name: CLIPVisionModelWithProjection.from_pretrained(path, dtype=torch.float32).eval()
        for name, path in (("student", arguments.student), ("teacher", arguments.teacher))
    }
    processors = {name: CLIPImageProcessorPil.from_pretrained(getattr(arguments, name)) for name in models}
    encoders: dict[str, Encoder] = {
        "teacher": clip_encoder(models["teacher"], processors["teacher"]),
        "student": clip_encoder(models["student"], processors["student"]),
        "random student": clip_encoder(random_student(models["student"]), processors["student"]),
        "8×8 pixels": pixel_encoder,
    }
    gallery, gallery_classes = read_classes(arguments.places / "train")
    queries, classes = read_classes(arguments.places / "test")
    shots = [Image.open(BytesIO(shot.keyframes[0])) for shot in detect_shots(arguments.video).shots if shot.keyframes]
    reference = encoders["teacher"](shots)
    rows = {
        name: {
            "places": classify(encode(gallery), gallery_classes, encode(queries), classes),
            "film": neighbor_agreement(encode(shots), reference),
        }
        for name, encode in encoders.items()
    }
    chance = 1 / len(set(classes))
    rows["chance"] = {
        "places": {"retrieval": chance, "probe": chance},
        "film": {"nearest": 1 / (len(shots) - 1), "nearest_of_three": 3 / (len(shots) - 1), "correlation": 0.0},
    }
    sizes = {"classes": len(set(classes)), "gallery": len(gallery), "queries": len(queries), "shots": len(shots)}
    return {"sizes": sizes, "encoders": rows}


def as_table(results: dict[str, Any]) -> str:
    lines = ["| encoder | places, 1-NN | places, probe | film, nearest | film, in three | film, correlation |"]
    lines.append("|---|---|---|---|---|---|")
    for name, row in results["encoders"].items():
        shares = [*row["places"].values(), *list(row["film"].values())[:2]]
        cells = [*(f"{100 * share:.1f} %" for share in shares), f"{row['film']['correlation']:.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    run_command("python -m eval.image_encoders", EncoderArguments, run, argv)


def run(arguments: EncoderArguments) -> None:
    results = measure(arguments)
    print(as_table(results))
    if arguments.output:
        write_json(arguments.output, results)


if __name__ == "__main__":
    main()
