"""Image encoders side by side: the measurements of `eval.image_encoders`."""

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from data_scripts.formats.photographs import read_photographs
from data_scripts.readers.stored_shots import ParquetShots
from eval.embeddings.encoders import load_efficientnet_lite0, load_places
from eval.film_worlds.truth import read_truth
from eval.image_encoders import EncoderArguments
from eval.images.measures import classify, common_share, named_words, neighbor_agreement, spread, unit_contrast
from modeling_m2s.pretrained_m2s import loading
from modeling_m2s.shots_m2s import detect_shots

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
Encoder = Callable[[Sequence[Image.Image]], np.ndarray]
BASELINES = {"efficientnet_lite0": "EfficientNet-Lite0 (ImageNet)", "places": "SqueezeNet (Places365)"}
NOT_SHOWN = "student not shown these kinds of place"
TEST_PART = "miniplaces"  # none of our encoders has seen its test pictures


class ImageSet(NamedTuple):
    """Images with their labels; an image's neighbors are searched in other groups."""

    images: list[Image.Image]
    labels: list[str]
    groups: list[str]


def clip_encoder(
    model: CLIPVisionModelWithProjection,
    processor: CLIPImageProcessorPil,
    pooled: bool = False,
    batch_size: int = 32,
) -> Encoder:
    """Images to `image_embeds` (images, projection_dim) or `pooler_output` (images, width), float32, not normalized."""

    @torch.inference_mode()
    def encode(images: Sequence[Image.Image]) -> np.ndarray:
        batches = [list(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        pixels = (processor(batch, return_tensors="pt")["pixel_values"] for batch in batches)
        outputs = [model.vision_model(each).pooler_output for each in pixels]
        return torch.cat(outputs if pooled else [model.visual_projection(each) for each in outputs]).numpy()

    return encode


def pixel_encoder(images: Sequence[Image.Image]) -> np.ndarray:
    """8×8 RGB pixels (images, 192), of mean 0 and standard deviation 1: a baseline without learning."""
    return unit_contrast(np.stack([np.asarray(image.convert("RGB").resize((8, 8))).ravel() for image in images]))


def random_student(student: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(student.config).eval()


def load_encoders(arguments: EncoderArguments) -> dict[str, Encoder]:
    """All encoders by their names in the results.

    Raises:
        ModelError: a model cannot be loaded; a baseline is not installed, or its files are missing.
    """
    names = {"teacher": arguments.teacher, "student": arguments.student, NOT_SHOWN: arguments.student_without}
    models, processors = {}, {}
    for name, path in names.items():
        if path:
            with loading(path):
                models[name] = CLIPVisionModelWithProjection.from_pretrained(path, dtype=torch.float32).eval()
                processors[name] = CLIPImageProcessorPil.from_pretrained(path)
    encoders: dict[str, Encoder] = {name: clip_encoder(model, processors[name]) for name, model in models.items()}
    encoders["student, pooler_output"] = clip_encoder(models["student"], processors["student"], pooled=True)
    encoders["random student"] = clip_encoder(random_student(models["student"]), processors["student"])
    baselines = {}
    if arguments.efficientnet_lite0:
        baselines["efficientnet_lite0"] = load_efficientnet_lite0()
    if arguments.places_network:
        baselines["places"] = load_places(arguments.places_network)
    for name, baseline in baselines.items():
        encoders[BASELINES[name]] = lambda images, encoder=baseline: encoder.encode([[image] for image in images])
    return {**encoders, "8×8 pixels": pixel_encoder}


def read_classes(folder: Path) -> tuple[list[Image.Image], list[str]]:
    """Images of `folder/CLASS/*` and their classes, sorted by path.

    Raises:
        ValueError: there are none.
    """
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no images in folders of classes")
    return [Image.open(path).convert("RGB") for path in paths], [path.parent.name for path in paths]


def read_test_photographs(folder: Path) -> ImageSet:
    """The test part of MiniPlaces, labeled by group; each photograph is a group of its own.

    Raises:
        LabelError: the folder has no manifest, or not these photographs.
    """
    scenes = read_photographs(folder, TEST_PART)
    chosen = scenes.of_split("test").tolist()
    names = [scenes.scenes[number].video for number in chosen]
    images = [Image.open(folder / name).convert("RGB") for name in names]
    return ImageSet(images, [scenes.classes[scenes.labels[number]] for number in chosen], names)


def read_world(world: Path, num_films: int) -> ImageSet:
    """One keyframe of each shot of a film world's first films, labeled by place; films are groups."""
    shots, truth = ParquetShots(world / "shots"), read_truth(world / "truth/shots.csv")
    read = ImageSet([], [], [])
    for movie_id in sorted(truth)[:num_films]:
        rows = shots.read(movie_id, 0, shots.films[movie_id].num_rows)
        keyframes = [keyframes for batch in rows for keyframes in batch.column("keyframes").to_pylist()]
        for shot, keyframe in zip(truth[movie_id], keyframes, strict=True):
            if keyframe:
                read.images.append(Image.open(BytesIO(keyframe[0]["bytes"])).convert("RGB"))
                read.labels.append(shot["place"])
                read.groups.append(movie_id)
    return read


def read_shots(video: Path) -> list[Image.Image]:
    """One keyframe of each shot of a video."""
    return [Image.open(BytesIO(shot.keyframes[0])) for shot in detect_shots(video).shots if shot.keyframes]


def read_words(folder: Path, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """CLIP's text vectors of the words, and the index of the word that each label names, or -1.

    A label such as `s/swimming_pool/outdoor` names a word if one of its parts is that word.
    """
    words = [entry["word"] for entry in json.loads((folder / "words.json").read_text(encoding="utf-8"))]
    numbers = {word: number for number, word in reversed(list(enumerate(words)))}  # the first of equal words
    named = [
        next((numbers[part] for part in label.replace("_", " ").split("/") if part in numbers), -1) for label in labels
    ]
    return np.load(folder / "vectors.npy").astype(np.float32), np.array(named)


def measure(arguments: EncoderArguments) -> dict[str, Any]:
    """Measure every encoder on every task; `chance` is the result of guessing.

    Raises:
        ValueError: a folder has no images.
        VideoError, StorageError, ModelError: an input cannot be read.
    """
    encoders = load_encoders(arguments)
    world = read_world(arguments.world, arguments.world_films) if arguments.world else None  # first: it may be unusable
    gallery, gallery_classes = read_classes(arguments.places / "train")
    queries, classes = read_classes(arguments.places / "test")
    shots = read_shots(arguments.video)
    reference = encoders["teacher"](shots)
    rows: dict[str, dict[str, Any]] = {
        name: {
            "places": classify(encode(gallery), gallery_classes, encode(queries), classes),
            "film": neighbor_agreement(encode(shots), reference),
        }
        for name, encode in encoders.items()
    }
    chance = 1 / len(set(classes))
    rows["chance"] = {
        "places": {"retrieval": chance, "centered": chance, "probe": chance},
        "film": {"nearest": 1 / (len(shots) - 1), "nearest_of_three": 3 / (len(shots) - 1), "correlation": 0.0},
    }
    sizes = {"classes": len(set(classes)), "gallery": len(gallery), "queries": len(queries), "shots": len(shots)}
    more = {"spread": {}, "words": {}}
    if arguments.photographs:
        read = read_test_photographs(arguments.photographs)
        embeds = {name: encode(read.images) for name, encode in encoders.items()}
        more["spread"]["photographs"] = {name: spread(each, read.labels, read.groups) for name, each in embeds.items()}
        sizes["photographs"] = len(read.images)
        if arguments.words:
            vectors, named = read_words(arguments.words, read.labels)
            known = named >= 0
            sizes |= {"words": len(vectors), "named_photographs": int(known.sum()), "named_words": len({*named[known]})}
            more["words"] = {
                name: named_words(embeds[name][known], vectors, named[known])
                for name in ("teacher", "student", "random student")
            }
    if arguments.seen_video:
        shots = read_shots(arguments.seen_video)
        sizes["seen_shots"] = len(shots)
        more["spread"]["seen_film"] = spread_of_film({name: encode(shots) for name, encode in encoders.items()})
    if world:
        sizes["world_shots"] = len(world.images)
        more["spread"]["film_world"] = {
            name: spread(encode(world.images), world.labels, world.groups) for name, encode in encoders.items()
        }
    return {"sizes": sizes, "encoders": rows, **{name: each for name, each in more.items() if each}}


def spread_of_film(embeds: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """`spread` for shots without labels: the right neighbor is the teacher's, after subtracting its mean."""
    centered = {name: each - each.mean(0) for name, each in embeds.items()}
    return {
        name: {
            "common": common_share(embeds[name]),
            "retrieval": neighbor_agreement(embeds[name], centered["teacher"])["nearest"],
            "centered": neighbor_agreement(centered[name], centered["teacher"])["nearest"],
        }
        for name in embeds
    }


def as_table(results: dict[str, Any]) -> str:
    """All results as Markdown tables."""

    def table(heads: Sequence[str], rows: dict[str, Sequence[str]]) -> list[str]:
        lines = ["| encoder | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        return [*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()), ""]

    def percents(values: Sequence[float]) -> list[str]:
        return [f"{100 * value:.1f} %" for value in values]

    heads = ["places, 1-NN", "1-NN centered", "places, probe", "film, nearest", "film, in three", "film, correlation"]
    lines = table(
        heads,
        {
            name: [
                *percents([*row["places"].values(), *list(row["film"].values())[:2]]),
                f"{row['film']['correlation']:.2f}",
            ]
            for name, row in results["encoders"].items()
        },
    )
    for name, rows in results.get("spread", {}).items():
        heads = [f"{name}, in common", "1-NN", "1-NN centered"]
        lines += table(heads, {encoder: percents([*row.values()]) for encoder, row in rows.items()})
    if words := results.get("words"):
        heads = ["right word first", "in five", "first, centered", "in five, centered"]
        lines += table(heads, {encoder: percents([*row.values()]) for encoder, row in words.items()})
    return "\n".join(lines).rstrip()
