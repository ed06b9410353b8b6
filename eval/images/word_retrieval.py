"""The photographs that words find: the work of `eval.word_search`. Shapes: W words, N photographs, D dimensions."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eval.word_search import WordSearchArguments
from modeling_m2s.frames_m2s import Preparation, normalize
from modeling_m2s.pretrained_m2s import load_encoder, name_without_folders
from modeling_m2s.words_m2s import EVERYDAY, unit

PHOTOGRAPHS_PER_GROUP = 2
IMAGES_AT_A_TIME = 8


def measure(arguments: WordSearchArguments) -> dict[str, Any]:
    """How well each model's photographs are found, in the ways that `found` names.

    Raises:
        ModelError: a model cannot be loaded.
        ValueError: no photograph is right for a word.
    """
    words = [entry["word"] for entry in json.loads((arguments.words / "words.json").read_text(encoding="utf-8"))]
    texts_WD = np.load(arguments.words / "vectors.npy").astype(np.float32)
    named = photographs(arguments.photographs)
    right_WN = np.array([[is_named(word, name) for _, name in named] for word in words])
    kept_N, asked_W = right_WN.any(0), right_WN.any(1)
    everyday_W = np.isin(words, EVERYDAY)
    if not kept_N.any():
        raise ValueError(f"{arguments.photographs}: no photograph has the name of a word")
    paths = [path for (path, _), kept in zip(named, kept_N, strict=True) if kept]
    models = {}
    for model in arguments.models:
        images_ND = embed(model, paths)
        models[name_without_folders(model)] = found(images_ND, texts_WD, right_WN[:, kept_N], everyday_W)
    sizes = {"photographs": len(paths), "words": len(words), "words_asked": int(asked_W.sum())}
    return {"sizes": sizes, "models": models}


def photographs(folder: Path) -> list[tuple[Path, str]]:
    """Photographs with the name of what they show; the parts of a name are separated by slashes."""
    named = [
        (path, re.sub(r"^n\d+_", "", path.stem).replace("_", " ").lower())
        for path in sorted((folder / "imagenet_1000").glob("*.jpg"))
    ]
    groups: dict[str, list[Path]] = {}
    manifest = folder / "photographs" / "manifest.tsv"
    for line in manifest.read_text(encoding="utf-8").splitlines()[1:]:
        file, _, group = line.split("\t")
        if file.startswith("miniplaces/") and int(re.findall(r"\d+", file)[-1]) % 3 == 0:  # the test part
            groups.setdefault(group, []).append(manifest.parent / file)
    for group, paths in sorted(groups.items()):
        named += [(path, group.replace("_", " ")) for path in sorted(paths)[:PHOTOGRAPHS_PER_GROUP]]
    return named


def is_named(word: str, name: str) -> bool:
    """Whether a part of a name is the word or ends with it, as names of kinds do: a suspension bridge is a bridge."""
    return any(f" {part}".endswith(f" {word}") for part in name.split("/"))


@torch.inference_mode()
def embed(model: str, paths: Sequence[Path]) -> np.ndarray:
    """The image_embeds (N, D) of pictures."""
    encoder, image_processor, _ = load_encoder(model)
    prepare = Preparation(image_processor)
    embeds = []
    for first in range(0, len(paths), IMAGES_AT_A_TIME):
        frames = [prepare(Image.open(path).convert("RGB")) for path in paths[first : first + IMAGES_AT_A_TIME]]
        pixels_NCYX = torch.from_numpy(np.stack(frames))
        embeds.append(encoder(pixel_values=normalize(pixels_NCYX, image_processor)[:, None]).scene_embeds.numpy())
    return np.concatenate(embeds)


def found(
    images_ND: np.ndarray, texts_WD: np.ndarray, right_WN: np.ndarray, everyday_W: np.ndarray
) -> dict[str, dict[str, float]]:
    """Share of words with a right photograph among the first, and the mean reciprocal rank of it, in four ways.

    Args:
        right_WN: which photographs are right for which words; words without a photograph are not asked.
        everyday_W: the words whose mean is the mean of words.

    Returns:
        By way (`cosine`, or with one or both of the means subtracted): `top_1`, `top_5` and `mean_reciprocal_rank`.
    """
    images_ND, texts_WD = unit(images_ND), unit(texts_WD)
    centered_ND, centered_WD = unit(images_ND - images_ND.mean(0)), texts_WD - texts_WD[everyday_W].mean(0)
    ways = {
        "cosine": images_ND @ texts_WD.T,
        "mean of words off": images_ND @ centered_WD.T,
        "mean of photographs off": centered_ND @ texts_WD.T,
        "both means off": centered_ND @ centered_WD.T,
    }
    return {way: _figures(scores_NW.T, right_WN) for way, scores_NW in ways.items()}


def _figures(scores_WN: np.ndarray, right_WN: np.ndarray) -> dict[str, float]:
    asked_W = right_WN.any(1)
    best_W = np.where(right_WN, scores_WN, -np.inf).max(1)[asked_W]
    rank_W = 1 + (scores_WN[asked_W] > best_W[:, None]).sum(1)
    return {
        "top_1": float((rank_W <= 1).mean()),
        "top_5": float((rank_W <= 5).mean()),
        "mean_reciprocal_rank": float((1 / rank_W).mean()),
    }
