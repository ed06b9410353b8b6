"""Measures of single images' embeddings: classes, neighbors, words, and the share common to all embeddings.

Shapes: N images, M queries, D dimensions, W words.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.metrics.retrieval import precision_at_k


def classify(
    gallery_ND: np.ndarray, gallery_classes: Sequence[str], queries_MD: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """Share of queries whose class is predicted correctly, by three methods.

    Returns:
        `retrieval`: the nearest gallery item by cosine. `centered`: the same, after subtracting the gallery's mean.
        `probe`: a logistic regression on standardized embeddings, fitted on the gallery.
    """
    mean_D = gallery_ND.mean(0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(gallery_ND, gallery_classes)

    def nearest(gallery: np.ndarray, queries: np.ndarray) -> float:
        return KNeighborsClassifier(1, metric="cosine").fit(gallery, gallery_classes).score(queries, classes)

    return {
        "retrieval": nearest(gallery_ND, queries_MD),
        "centered": nearest(gallery_ND - mean_D, queries_MD - mean_D),
        "probe": probe.score(queries_MD, classes),
    }


def common_share(embeds_ND: np.ndarray) -> float:
    """Squared length of the mean, divided by the mean squared length: 1 if all embeddings are equal."""
    return float((embeds_ND.mean(0) ** 2).sum() / (embeds_ND**2).sum(1).mean())


def spread(embeds_ND: np.ndarray, labels: Sequence[str], groups: Sequence[str]) -> dict[str, float]:
    """How much all images have in common, and how often the nearest image of another group has the same label.

    Returns:
        `common`: see `common_share`. `retrieval`, `centered`: share of images whose nearest one by cosine has their
        label, before and after subtracting the mean of all.
    """
    raw, centered = (
        float(precision_at_k(embeds, labels, groups, k=(1,))[1].mean())
        for embeds in (embeds_ND, embeds_ND - embeds_ND.mean(0))
    )
    return {"common": common_share(embeds_ND), "retrieval": raw, "centered": centered}


def neighbor_agreement(embeds_ND: np.ndarray, reference_ND: np.ndarray) -> dict[str, float]:
    """How far two encoders agree on which of N items are similar, by cosine.

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


def named_words(embeds_ND: np.ndarray, words_WD: np.ndarray, named_N: np.ndarray) -> dict[str, float]:
    """Share of images whose word is the first, or among the first five, of all words by cosine (zero-shot).

    Args:
        words_WD: CLIP's text vectors of the words.
        named_N: index of the word that each image's group names.

    Returns:
        `top_1`, `top_5`; `centered_top_1`, `centered_top_5`: after subtracting the images' mean and the words' mean.
    """
    spaces = {"": (embeds_ND, words_WD), "centered_": (embeds_ND - embeds_ND.mean(0), words_WD - words_WD.mean(0))}
    found = {}
    for space, (images_ND, texts_WD) in spaces.items():
        scores_NW = images_ND @ (texts_WD / np.linalg.norm(texts_WD, axis=1, keepdims=True)).T
        for k in (1, 5):
            labels = np.arange(len(words_WD))
            found[f"{space}top_{k}"] = float(top_k_accuracy_score(named_N, scores_NW, k=k, labels=labels))
    return found


def unit_contrast(pixels: np.ndarray) -> np.ndarray:
    """Pixels of images (images, D), those of each image shifted and scaled to mean 0 and standard deviation 1."""
    centered = pixels - pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    return centered / (centered.std(axis=1, keepdims=True) + 1e-6)
