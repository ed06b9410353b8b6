"""Pairs of films to learn movie similarity from, and the features of their shots (paper §3.1, supplement 1.1a).

Similar films come from a `similar_movies` dataset. The paper does not say which films count as dissimilar, nor how
many. Here, one film of every similar pair is paired in every epoch with a random film that is not similar to it (ours).
Some films are held out for measuring (ours). Only films that the similar ones were drawn from take part: the catalog
has them and does not exclude them from training [4.3].
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data_scripts.features.shot_features import ShotFeatures
from data_scripts.stages.inputs import candidates_of, finished
from modeling_m2s.storage_m2s import StorageError
from train.mil.recipe import MILRecipe

# Separate random streams from one seed: pairs of an epoch, windows of long films in a step, pairs to measure on, films
# to fit whitening to.
PAIRS, WINDOWS, MEASURED, WHITENED = range(4)


class LabeledPairs(NamedTuple):
    """Pairs of films by number, (pairs, 2), and labels (pairs,): 1 for similar films, 0 for others."""

    films: np.ndarray
    labels: np.ndarray

    def part(self, start: int, stop: int) -> "LabeledPairs":
        return LabeledPairs(self.films[start:stop], self.labels[start:stop])


@dataclass
class SimilarFilms:
    """Films by number, and the pairs of similar films among them.

    Attributes:
        movie_ids: ids of the films, sorted; a film's number is its index here.
        pairs: similar films (pairs, 2), sorted, the smaller number first.
        counts: numbers of films, pairs and left-out films, for the record.
    """

    movie_ids: list[str]
    pairs: np.ndarray
    counts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        num_films = len(self.movie_ids)
        both_ways = np.concatenate([self.pairs, self.pairs[:, ::-1], np.arange(num_films)[:, None].repeat(2, 1)])
        self._alike = np.unique(both_ways @ [num_films, 1])  # every film is also similar to itself
        self._num_alike = np.bincount(both_ways[:, 0], minlength=num_films)

    def digest(self, features: ShotFeatures) -> str:
        """Sixteen hex digits that change with the films, their numbers of shots or the pairs."""
        content = json.dumps([self.movie_ids, self.pairs.tolist(), features.num_shots.tolist()])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @classmethod
    def read(
        cls,
        folder: Path,
        features: ShotFeatures,
        sources: Sequence[str] = (),
        allow_missing: bool = False,
    ) -> "SimilarFilms":
        """Films with features that similar films were drawn from, and the similar pairs among them.

        Args:
            folder: a `similar_movies` dataset.
            sources: sources of similarity to use; by default all in the dataset.
            allow_missing: leave out pairs of films without features instead of raising an error.

        Raises:
            StorageError: no finished dataset, no such source, no pairs, or films without features.
        """
        similar = finished(folder, "similar_movies")
        rows = similar.read(["movie_id", "similar_movie_id", "source"]).to_pylist()
        if not rows:
            raise StorageError(f"{folder}: holds no similar films")
        counts = Counter(row["source"] for row in rows)
        if unknown := sorted(set(sources) - counts.keys()):
            raise StorageError(f"{folder}: no pairs of source {', '.join(unknown)}; it has {', '.join(sorted(counts))}")
        named = {(row["movie_id"], row["similar_movie_id"]) for row in rows if not sources or row["source"] in sources}
        missing = sorted({movie_id for pair in named for movie_id in pair if movie_id not in features})
        if missing and not allow_missing:
            raise StorageError(
                f"{folder} names {len(missing)} films that {features.folder} has no features of, the first is "
                f"{missing[0]}; extract theirs, or leave them out with --allow-missing"
            )
        candidates = candidates_of(similar)
        kept = [movie_id for movie_id in features.movie_ids if movie_id in candidates]
        number = {movie_id: place for place, movie_id in enumerate(kept)}
        known = {tuple(sorted((number[a], number[b]))) for a, b in named if a in number and b in number and a != b}
        facts = {
            "films": len(kept),
            "films_left_out": len(features) - len(kept),
            "films_without_features": len(missing),
            "similar_pairs": len(known),
        }
        return cls(kept, np.array(sorted(known), np.int64).reshape(-1, 2), facts)

    def split(self, share: float, seed: int) -> tuple["SimilarFilms", "SimilarFilms"]:
        """Films to train on and films to measure on, split by a hash of the film's id, with the pairs within each."""
        digests = [hashlib.sha256(f"{seed} {movie_id}".encode()).digest() for movie_id in self.movie_ids]
        is_held_out = np.array([int.from_bytes(digest[:8]) < share * 2**64 for digest in digests])
        return self._among(~is_held_out), self._among(is_held_out)

    def _among(self, kept: np.ndarray) -> "SimilarFilms":
        number = np.cumsum(kept) - 1
        pairs = self.pairs[kept[self.pairs].all(1)]
        movie_ids = [movie_id for movie_id, is_kept in zip(self.movie_ids, kept, strict=True) if is_kept]
        return SimilarFilms(movie_ids, number[pairs])

    def draw(self, random: np.random.Generator, negatives: int) -> LabeledPairs:
        """All similar pairs in random order, each followed by its dissimilar pairs; the order within a pair is random.

        Returns:
            pairs · (1 + negatives) pairs.

        Raises:
            ValueError: there are no similar films, or both films of a pair are similar to all others.
        """
        if not len(self.pairs):
            raise ValueError(f"no two of {len(self.movie_ids)} films are similar: nothing to learn from or to measure")
        pairs = self.pairs[random.permutation(len(self.pairs))]
        side = random.integers(2, size=len(pairs))
        has_unlike = self._num_alike < len(self.movie_ids)
        side ^= ~has_unlike[pairs[np.arange(len(pairs)), side]]
        anchors = pairs[np.arange(len(pairs)), side]
        if not has_unlike[anchors].all():
            films = [self.movie_ids[film] for film in pairs[~has_unlike[anchors]][0]]
            raise ValueError(f"all films are similar to {films[0]} and to {films[1]}: none is left as a dissimilar one")
        groups = np.repeat(pairs[:, None], 1 + negatives, axis=1)
        groups[:, 1:, 0] = anchors[:, None]
        groups[:, 1:, 1] = self._dissimilar(np.repeat(anchors, negatives), random).reshape(-1, negatives)
        films, labels = groups.reshape(-1, 2), np.zeros(groups.shape[:2], np.int64)
        labels[:, 0] = 1
        swapped = random.random(len(films)) < 0.5
        films[swapped] = films[swapped, ::-1]
        return LabeledPairs(films, labels.ravel())

    def _dissimilar(self, films: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """For each film, a random film that is not similar to it, all equally likely."""
        others = np.empty_like(films)
        missing = np.arange(len(films))
        while len(missing):
            others[missing] = random.integers(len(self.movie_ids), size=len(missing))
            alike = np.isin(films[missing] * len(self.movie_ids) + others[missing], self._alike)
            missing = missing[alike]
        return others


class FilmReader:
    """Reads features of films as a batch; only a part of films with more than `max_shots` shots.

    Args:
        movie_ids: the films, which are read by their number in this list.
        max_shots: most shots that the network reads.
        long_films: `window` reads consecutive shots, at a random place in training and in the middle otherwise;
            `uniform` reads evenly spaced shots. The paper reads 1,024 shots and does not say which.
        resident: hold the features of all films on the device, in float16.
    """

    def __init__(
        self,
        movie_ids: Sequence[str],
        features: ShotFeatures,
        max_shots: int,
        long_films: str,
        device: torch.device,
        resident: bool,
    ):
        if long_films not in ("window", "uniform"):
            raise ValueError(f"long_films={long_films!r} is neither window nor uniform")
        self.features, self.movie_ids, self.device = features, movie_ids, device
        self.max_shots, self.long_films = max_shots, long_films
        number = {movie_id: place for place, movie_id in enumerate(features.movie_ids)}
        self.num_shots = features.num_shots[[number[movie_id] for movie_id in movie_ids]]
        self.bank: torch.Tensor | None = None
        if resident:
            self.first = np.cumsum(self.num_shots) - self.num_shots
            self.bank = torch.zeros(int(self.num_shots.sum()) + 1, features.dim, dtype=torch.float16, device=device)
            for movie_id, first, length in zip(movie_ids, self.first, self.num_shots, strict=True):
                self.bank[first : first + length] = torch.from_numpy(features[movie_id].copy()).to(device)

    def read(self, films: np.ndarray, random: np.random.Generator | None = None) -> torch.Tensor:
        """Features, float16 (films, shots of the longest, dim), padded with zeros; `random` draws windows.

        A film's window depends on the film and the generator, not on the other films of the batch.
        """
        places = np.full(len(films), 0.5) if random is None else random.random(len(self.movie_ids))[films]
        shots = [self._shots(int(self.num_shots[film]), place) for film, place in zip(films, places, strict=True)]
        longest = max(map(len, shots))
        if self.bank is not None:
            index = np.full((len(films), longest), len(self.bank) - 1)
            for row, film, chosen in zip(index, films, shots, strict=True):
                row[: len(chosen)] = self.first[film] + chosen
            return self.bank[torch.from_numpy(index).to(self.device)]
        batch = np.zeros((len(films), longest, self.features.dim), np.float16)
        for row, film, chosen in zip(batch, films, shots, strict=True):
            row[: len(chosen)] = self.features[self.movie_ids[film]][chosen]
        return torch.from_numpy(batch).to(self.device)

    def _shots(self, num_shots: int, place: float) -> np.ndarray:
        """Indices of the shots that are read of a film; `place`, from 0 to 1, is the position of the window."""
        if num_shots <= self.max_shots:
            return np.arange(num_shots)
        if self.long_films == "uniform":
            return ((np.arange(self.max_shots) + 0.5) * num_shots / self.max_shots).astype(np.int64)
        start = int(place * (num_shots - self.max_shots + 1))
        return np.arange(start, start + self.max_shots)


@dataclass
class Material:
    """All films, films to train on and held-out films, with the pairs within each part and readers of their shots.

    Attributes:
        measured: pairs of held-out films to measure on; None if no films are held out.
    """

    films: SimilarFilms
    trained: SimilarFilms
    held_out: SimilarFilms
    measured: LabeledPairs | None
    trained_reader: FilmReader
    held_out_reader: FilmReader

    @classmethod
    def split(
        cls, films: SimilarFilms, features: ShotFeatures, recipe: MILRecipe, device: torch.device, resident: bool
    ) -> "Material":
        """Hold out films and draw their pairs to measure on.

        Raises:
            ValueError: one part has no pairs, or there are no dissimilar films.
        """
        trained, held_out = films.split(recipe.held_out, recipe.seed)
        if not len(trained.pairs):
            raise ValueError(
                f"none of the {len(films.pairs)} pairs of similar films lies within the {len(trained.movie_ids)} films "
                f"to train on: hold out fewer than held_out={recipe.held_out}"
            )
        if recipe.held_out and not len(held_out.pairs):
            raise ValueError(
                f"none of the {len(films.pairs)} pairs of similar films lies within the {len(held_out.movie_ids)} "
                f"held-out films: hold out more than held_out={recipe.held_out}, or 0 to measure nothing"
            )
        trained.draw(np.random.default_rng(0), recipe.negatives)  # raises errors now instead of in the first step
        measured = None
        if recipe.held_out:
            try:
                measured = held_out.draw(np.random.default_rng([recipe.seed, MEASURED]), recipe.negatives)
            except ValueError as error:
                raise ValueError(
                    f"of the {len(held_out.movie_ids)} held-out films, {error}: hold out more than "
                    f"held_out={recipe.held_out}, or 0 to measure nothing"
                ) from None
        how = (features, recipe.max_shots, recipe.long_films, device, resident)
        readers = [FilmReader(each.movie_ids, *how) for each in (trained, held_out)]
        return cls(films, trained, held_out, measured, *readers)

    def counts(self) -> dict[str, Any]:
        """Numbers of films and similar pairs in both parts, and of pairs across them."""
        return {
            **self.films.counts,
            "trained_films": len(self.trained.movie_ids),
            "trained_pairs": len(self.trained.pairs),
            "held_out_films": len(self.held_out.movie_ids),
            "held_out_pairs": len(self.held_out.pairs),
            "pairs_across": len(self.films.pairs) - len(self.trained.pairs) - len(self.held_out.pairs),
        }
