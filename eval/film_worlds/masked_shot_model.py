"""The network of `eval.masked_shots`: training it, and applying it to all films."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from data_scripts.features.shot_features import DTYPE, ShotFeatures, has_keyframe
from data_scripts.mining.whitening import Moments, Whitening
from eval.film_worlds.retrieval import SHRINKAGE, read_films
from eval.masked_shots import MaskedShotsArguments, MaskedShotsRecipe
from modeling_m2s.storage_m2s import FilmDataset, exclusive


class MaskedShotModel(nn.Module):
    """A transformer over shots: features (B, S, D) in and out; one learned vector replaces all masked shots."""

    def __init__(self, recipe: MaskedShotsRecipe, dim: int):
        super().__init__()
        self.project = nn.Linear(dim, recipe.width)
        self.mask_vector = nn.Parameter(torch.zeros(recipe.width))
        self.positions = nn.Parameter(torch.randn(recipe.max_shots, recipe.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            recipe.width, recipe.heads, 4 * recipe.width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, recipe.layers, nn.LayerNorm(recipe.width), enable_nested_tensor=False
        )
        self.predict = nn.Linear(recipe.width, dim)

    def forward(
        self, features_BSD: torch.Tensor, is_padding_BS: torch.Tensor, is_masked_BS: torch.Tensor | None = None
    ) -> torch.Tensor:
        tokens_BSW = self.project(features_BSD)
        if is_masked_BS is not None:
            tokens_BSW = torch.where(is_masked_BS[..., None], self.mask_vector, tokens_BSW)
        tokens_BSW = tokens_BSW + self.positions[: tokens_BSW.shape[1]]
        return self.predict(self.encoder(tokens_BSW, src_key_padding_mask=is_padding_BS))


def masked_shots(recipe: MaskedShotsRecipe, arguments: MaskedShotsArguments) -> None:
    """Train, and write the outputs for the shots of all films as a `shot_features` dataset.

    Raises:
        ValueError: no films to learn from, or one of them has no features.
        StorageError: the features cannot be used, or the output has other settings.
    """
    features = ShotFeatures(arguments.features)
    films = sorted(read_films(arguments.films))
    if not films:
        raise ValueError(f"{arguments.films} names no films")
    if missing := [movie_id for movie_id in films if movie_id not in features]:
        raise ValueError(f"{arguments.films} names film {missing[0]}, of which {arguments.features} has no features")
    dataset = FilmDataset(arguments.output, "shot_features")
    with exclusive(arguments.output):
        settings = {**features.record["settings"], "masked_shots": asdict(recipe), "learned_from": len(films)}
        dataset.begin(settings)
        if dataset.record.get("complete"):
            return
        whitened = whitened_shots(features, films, recipe)
        model, loss = train(recipe, [whitened[movie_id] for movie_id in films])
        rows = [_row(movie_id, read(model, shots_MD, recipe)) for movie_id, shots_MD in whitened.items()]
        dataset.write_all(rows)
    print(f"{len(rows)} films in {arguments.output}; loss of the last tenth of the steps {loss:.3f}, of a guess 1")
    print(f"next: python -m eval.scene_retrieval --features {arguments.output}")


def whitened_shots(features: ShotFeatures, films: Sequence[str], recipe: MaskedShotsRecipe) -> dict[str, torch.Tensor]:
    """Whitened features (shots, D) of every film, scaled to length 1; zeros for a shot without a keyframe.

    The whitening is fitted to `films`, the films to learn from.
    """
    moments = Moments(features.dim)
    for movie_id in films:
        shots_MD = np.asarray(features[movie_id])
        moments.add(shots_MD[has_keyframe(shots_MD)])
    whitening = Whitening.fit(moments, recipe.width, SHRINKAGE)
    found = {}
    for movie_id in features.movie_ids:
        shots_MD = np.asarray(features[movie_id])
        whitened_MD = torch.from_numpy(whitening.apply(shots_MD)).float()
        found[movie_id] = F.normalize(whitened_MD, dim=1) * torch.from_numpy(has_keyframe(shots_MD))[:, None]
    return found


def train(recipe: MaskedShotsRecipe, films: Sequence[torch.Tensor]) -> tuple[MaskedShotModel, float]:
    """Train a network.

    Returns:
        The network, in evaluation mode, and the mean loss of the last tenth of the steps.

    The loss is 1 minus the cosine to the true features of masked shots that have a keyframe.
    """
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    model = MaskedShotModel(recipe, films[0].shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps + 1, pct_start=0.1)
    losses = []
    for _ in range(recipe.steps):
        chosen = random.choice(len(films), size=min(recipe.batch_size, len(films)), replace=False)
        windows = []
        for film in chosen:
            first = int(random.integers(max(0, len(films[film]) - recipe.max_shots) + 1))
            windows.append(films[film][first : first + recipe.max_shots])
        features_BSD, is_padding_BS = padded(windows)
        is_masked_BS = torch.from_numpy(random.random(is_padding_BS.shape) < recipe.masked) & ~is_padding_BS
        predicted_BSD = model(features_BSD, is_padding_BS, is_masked_BS)
        is_asked_BS = is_masked_BS & features_BSD.any(-1)
        if not is_asked_BS.any():
            continue
        loss = 1 - F.cosine_similarity(predicted_BSD[is_asked_BS], features_BSD[is_asked_BS]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return model.eval(), float(np.mean(losses[-max(1, len(losses) // 10) :]))


def padded(windows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of shots (B, S, D), the shorter ones padded with zeros, and a mask (B, S) of the padding."""
    features_BSD = nn.utils.rnn.pad_sequence(list(windows), batch_first=True)
    lengths_B = torch.tensor([len(window) for window in windows])
    return features_BSD, torch.arange(features_BSD.shape[1]) >= lengths_B[:, None]


@torch.no_grad()
def read(model: MaskedShotModel, shots_MD: torch.Tensor, recipe: MaskedShotsRecipe) -> np.ndarray:
    """The outputs (shots, D) for a film, window after window; zeros for a shot without keyframe."""
    outputs = [
        model(window_SD[None], torch.zeros(1, len(window_SD), dtype=torch.bool))[0]
        for window_SD in shots_MD.split(recipe.max_shots)
    ]
    return (torch.cat(outputs) * shots_MD.any(1, keepdim=True)).numpy()


def _row(movie_id: str, outputs_MD: np.ndarray) -> dict[str, Any]:
    features_MD = outputs_MD.astype(DTYPE)
    size = {"num_shots": len(features_MD), "dim": features_MD.shape[1], "dtype": "float16"}
    return {"movie_id": movie_id, **size, "features": features_MD.tobytes()}
