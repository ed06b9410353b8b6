"""How well a movie-similarity network tells similar films from others, beside baselines without a network.

The paper does not measure this step. We measure accuracy at 0.5, area under the ROC curve, average precision and
cross-entropy on pairs of held-out films (ours). The network is not symmetric, so its outputs for both orders of the two
films are averaged.
"""

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from data_scripts.features.shot_features import ShotFeatures, has_keyframe
from modeling_m2s import M2SMovieSimilarityModel
from train.mil.pairs import PAIRS, FilmReader, LabeledPairs, Material
from train.mil.recipe import MILRecipe

PAIRS_AT_ONCE = 32


def final_scores(model: M2SMovieSimilarityModel, material: Material, recipe: MILRecipe) -> dict[str, Any]:
    """Scores on held-out films: `held_out`, the network's, and `baselines`; both None if no films are held out."""
    if material.measured is None:
        return {"held_out": None, "baselines": None}
    random = np.random.default_rng([recipe.seed, PAIRS, 0])
    trained = (material.trained.movie_ids, material.trained.draw(random, recipe.negatives))
    features, held_out = material.held_out_reader.features, (material.held_out.movie_ids, material.measured)
    return {
        "held_out": network_scores(model, material.held_out_reader, material.measured),
        "baselines": trivial_scores(features, trained, held_out),
    }


@torch.no_grad()
def network_scores(model: M2SMovieSimilarityModel, reader: FilmReader, measured: LabeledPairs) -> dict[str, float]:
    """`scores` of the network on pairs of the reader's films, without dropout.

    Raises:
        ValueError: its outputs are not finite.
    """
    was_training = model.training
    model.eval()
    probabilities = []
    for start in range(0, len(measured.labels), PAIRS_AT_ONCE):
        films, numbers = np.unique(measured.films[start : start + PAIRS_AT_ONCE], return_inverse=True)
        windows_P2WH = model.encode_films(reader.read(films))[
            torch.from_numpy(numbers.reshape(-1, 2)).to(reader.device)
        ]
        first, second = windows_P2WH.unbind(1)
        logits = torch.stack([model.compare(first, second).logits, model.compare(second, first).logits])
        probabilities.append(logits.double().softmax(-1)[..., 1].mean(0).cpu().numpy())
    model.train(was_training)
    found = np.concatenate(probabilities)
    if not np.isfinite(found).all():
        raise ValueError("the network's answers are not numbers: training diverged; use a lower learning_rate")
    return scores(measured.labels, found)


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Scores of predicted probabilities (pairs,) of similarity, against labels (pairs,) of 0 and 1."""
    return {
        "accuracy": round(float(((probabilities > 0.5) == labels).mean()), 4),
        "auc": round(float(roc_auc_score(labels, probabilities)), 4),
        "average_precision": round(float(average_precision_score(labels, probabilities)), 4),
        "loss": round(float(log_loss(labels, probabilities, labels=[0, 1])), 6),
    }


def trivial_scores(
    features: ShotFeatures, trained: tuple[list[str], LabeledPairs], held_out: tuple[list[str], LabeledPairs]
) -> dict[str, dict[str, float]]:
    """Scores of the more frequent label, and of mean features compared by inner product and by cosine.

    A logistic regression, fitted on the training pairs, turns a product or cosine into a probability.

    Args:
        trained, held_out: ids of films, and pairs of them by number.
    """
    majority = round(trained[1].labels.mean())
    found = {"majority": {"accuracy": round(float((held_out[1].labels == majority).mean()), 4)}}
    means = [np.stack([mean_feature(features[name]) for name in movie_ids]) for movie_ids, _ in (trained, held_out)]
    for name in ("mean_features_product", "mean_features_cosine"):
        if name.endswith("cosine"):
            means = [mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12) for mean in means]
        (train_P1, train_labels), (held_out_P1, labels) = (
            ((mean[pairs.films[:, 0]] * mean[pairs.films[:, 1]]).sum(1, keepdims=True), pairs.labels)
            for mean, (_, pairs) in zip(means, (trained, held_out), strict=True)
        )
        center, spread = train_P1.mean(), train_P1.std() or 1.0
        fitted = LogisticRegression(C=1e4).fit((train_P1 - center) / spread, train_labels)
        found[name] = scores(labels, fitted.predict_proba((held_out_P1 - center) / spread)[:, 1])
    return found


def mean_feature(features_TD: np.ndarray) -> np.ndarray:
    """Mean (D,) over the shots that have features."""
    return features_TD.astype(np.float64).sum(0) / max(1, has_keyframe(features_TD).sum())
