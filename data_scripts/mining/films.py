"""Scene pairs of all similar films of a catalog: the work of `data_scripts.mine_scene_pairs`."""

import contextlib
import functools
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from data_scripts.features.shot_features import ShotFeatures
from data_scripts.mine_scene_pairs import MiningArguments
from data_scripts.mining.scenes import (
    WINDOW,
    Embed,
    FilmWindows,
    ScenePair,
    exact_embedder,
    film_windows,
    mine_scene_pairs,
    random_scene_pairs,
)
from data_scripts.mining.spaces import (
    MiningSpace,
    dissimilar_films,
    read_statistics,
    write_statistics,
)
from data_scripts.mining.spaces import digest as statistics_digest
from data_scripts.stages.inputs import finished, leak_guard_of
from data_scripts.stages.text_files import text_lines
from modeling_m2s.movie_similarity_m2s import M2SMovieSimilarityModel
from modeling_m2s.storage_m2s import FilmDataset, exclusive, require_settings

STATISTICS_NAME = "statistics.safetensors"
NOT_ASKED = ("film_pairs",)  # settings of an earlier release that do not affect how pairs are mined
NO_KEYFRAMES = f"no {WINDOW} neighboring shots with keyframes"


class FilmPair(NamedTuple):
    """Two similar films, `movie_id_a < movie_id_b`, and the sources of their similarity, joined with "+"."""

    movie_id_a: str
    movie_id_b: str
    source: str


def mine_catalog(arguments: MiningArguments, state: PartialState) -> None:
    """Write the `scene_pairs` of all similar films, or the missing ones; every process does its share.

    The record says which films were skipped and why (`failed`), and how many film pairs were found and mined.

    Raises:
        ValueError: no similar films, films without features, nothing that can be mined; all shots have equal features.
        StorageError: model and features are of two encoders; features are no numbers; the folder holds other pairs.
        MetadataError: the list of films cannot be read.
    """
    features = ShotFeatures(arguments.features)
    pairs = read_film_pairs(arguments.similar, arguments.sources)
    leak_guard = leak_guard_of(finished(arguments.similar, "similar_movies"))
    skipped = films_to_skip(pairs, features, arguments)
    mined = [pair for pair in pairs if not {pair.movie_id_a, pair.movie_id_b} & skipped.keys()]
    if not mined:
        reasons = Counter(skipped.values())
        raise ValueError(f"{arguments.similar}: none of {len(pairs)} film pairs can be mined: {_listed(reasons)}")
    dataset = FilmDataset(arguments.output, "scene_pairs")
    miner = Miner(features, arguments, leak_guard, state)
    with exclusive(arguments.output) if state.is_main_process else contextlib.nullcontext():
        if state.is_main_process:
            begin(dataset, miner, mined, similar=pairs)
        state.wait_for_everyone()
        if miner.space.needs_statistics:
            miner.space.use(read_statistics(arguments.output / STATISTICS_NAME))
        asked, num_shots = digests(mined, features), features.counts()
        films = sorted(asked)
        stored = {movie_id: film.facts.get("asked") for movie_id, film in dataset.films().items()}
        share = {film for film in films[state.process_index :: state.num_processes] if stored.get(film) != asked[film]}
        for movie_id, rows, facts in miner.mine([pair for pair in mined if pair.movie_id_a in share]):
            # Training refuses pairs whose films have been cut into other shots since.
            told = {"asked": asked[movie_id], "num_shots": num_shots[movie_id]}
            dataset.write_film(movie_id, rows, {**facts, **told})
        state.wait_for_everyone()
        if state.is_main_process:
            finish(dataset, films, skipped, film_pairs=len(pairs), leak_guard=leak_guard)


def begin(dataset: FilmDataset, miner: "Miner", mined: list[FilmPair], similar: list[FilmPair]) -> None:
    """Start or continue the dataset; first measure the statistics that the space needs, or read those of the first run.

    Raises:
        StorageError: the folder holds pairs of another space, other features or another network.
    """
    settings, path = dict(miner.settings), dataset.folder / STATISTICS_NAME
    record = dataset.record
    if record:  # other settings are refused before time is spent on statistics
        kept = {key: record["settings"][key] for key in (*NOT_ASKED, "statistics") if key in record["settings"]}
        require_settings(dataset.folder, record["settings"], {**settings, **kept})
        settings |= {key: value for key, value in kept.items() if key in NOT_ASKED}
    if miner.space.needs_statistics:
        if not record or not path.exists():
            write_statistics(path, miner.measure(mined, similar))
        settings["statistics"] = statistics_digest(read_statistics(path))
    dataset.begin(settings)


class Miner:
    """Scene pairs of film pairs, on one device.

    Raises:
        ValueError: a GPU is asked for, and there is none; the model cannot be computed exactly.
        StorageError: the model was trained on features of another encoder.
    """

    def __init__(
        self, features: ShotFeatures, arguments: MiningArguments, leak_guard: Mapping[str, Any], state: PartialState
    ):
        self.features, self.arguments = features, arguments
        has_gpu = state.device.type == "cuda"  # other accelerators have no float64
        if arguments.device == "cuda" and not has_gpu:
            raise ValueError("device=cuda: torch finds no GPU; leave --device out to mine on the processor")
        self.device = state.device if has_gpu and arguments.device != "cpu" else torch.device("cpu")
        self.batch_pairs = arguments.batch_pairs or (64 if self.device.type == "cuda" else 4)
        self.show_progress = state.is_main_process
        learned = self._embedder(arguments.model) if arguments.model else None
        self.space = MiningSpace(arguments.space, arguments.center, learned, self.device)
        self.settings: dict[str, Any] = {
            "space": arguments.space,
            "window": WINDOW,
            "sources": sorted(set(arguments.sources)),
            "features": features.record["settings"],
            **self.space.settings(arguments.seed),
        }
        # Statistics of earlier pairs may hold films that are now excluded.
        self.settings |= {name: leak_guard[name] for name in ("exclude", "require_imdb_id") if leak_guard.get(name)}
        if arguments.model:
            weights = (arguments.model / "model.safetensors").read_bytes()
            self.settings["model"] = hashlib.sha256(weights).hexdigest()[:12]
        self.windows = functools.lru_cache(arguments.cached_films)(self._windows)

    def measure(self, mined: Sequence[FilmPair], similar: Sequence[FilmPair]) -> dict[str, np.ndarray]:
        """Statistics of the films in the pairs `mined`; `similar` are all pairs of similar films."""
        movie_ids = sorted({film for pair in mined for film in pair[:2]})
        print(f"measuring {len(movie_ids)} films for space={self.arguments.space}", flush=True)
        film_pairs = dissimilar_films(movie_ids, (pair[:2] for pair in similar), self.arguments.seed)
        # If all films are similar to each other, the mined pairs are used instead.
        return self.space.measure(movie_ids, self._read, film_pairs or [pair[:2] for pair in mined])

    def mine(self, pairs: Sequence[FilmPair]) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
        """For each film that comes first in a pair: its id, its rows, and counts of what was mined and skipped."""
        results = self._results(pairs)
        for movie_id, group in itertools.groupby(results, key=lambda result: result[0].movie_id_a):
            rows, num_mined, without_keyframes = [], 0, set()
            for pair, scenes in group:
                rows += [
                    {**pair._asdict(), **scene._asdict(), "num_shots": WINDOW}
                    for scene in sorted(scenes, key=lambda scene: scene.first_shot_a)
                ]
                num_mined += bool(scenes)
                if not scenes:
                    without_keyframes |= {film for film in pair[:2] if not self.windows(film).usable_P.any()}
            yield movie_id, rows, {"film_pairs_mined": num_mined, "without_keyframes": sorted(without_keyframes)}

    def _results(self, pairs: Sequence[FilmPair]) -> Iterator[tuple[FilmPair, list[ScenePair]]]:
        with tqdm(total=len(pairs), unit=" film pairs", disable=None if self.show_progress else True) as progress:
            for first in range(0, len(pairs), self.batch_pairs):
                batch = pairs[first : first + self.batch_pairs]
                films = [(self.windows(pair.movie_id_a), self.windows(pair.movie_id_b)) for pair in batch]
                if self.arguments.space == "random":
                    seeds = (f"{self.arguments.seed} {pair.movie_id_a} {pair.movie_id_b}" for pair in batch)
                    scenes = [random_scene_pairs(a, b, seed) for (a, b), seed in zip(films, seeds, strict=True)]
                else:
                    scenes = mine_scene_pairs(films)
                yield from zip(batch, scenes, strict=True)
                progress.update(len(batch))

    def _windows(self, movie_id: str) -> FilmWindows:
        return film_windows(self._read(movie_id), self.space.embed)

    def _read(self, movie_id: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.features[movie_id])).to(self.device)

    def _embedder(self, folder: Path) -> Embed:
        model = M2SMovieSimilarityModel.from_pretrained(folder)
        trained_on = model.config.features or {}
        self.features.require_encoder({key: trained_on.get(key) for key in ("encoder", "revision", "vector", "dim")})
        return exact_embedder(model.to(self.device))


def read_film_pairs(folder: Path, sources: Sequence[str] = ()) -> list[FilmPair]:
    """Every unordered pair of similar films once, by id.

    Raises:
        ValueError: there are none, or none of these sources, or a film is similar to itself.
        StorageError: not a finished similar_movies dataset.
    """
    dataset = finished(folder, "similar_movies")
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    present = set()
    for row in dataset.read(["movie_id", "similar_movie_id", "source"]).to_pylist():
        first, second = sorted((row["movie_id"], row["similar_movie_id"]))
        if first == second:
            raise ValueError(f"{folder}: film {first} is similar to itself; remove the folder and make it again")
        present.add(row["source"])
        if not sources or row["source"] in sources:
            found[first, second].add(row["source"])
    if unknown := sorted(set(sources) - present):
        raise ValueError(f"{folder} has no pairs of source {', '.join(unknown)}, only of {', '.join(sorted(present))}")
    if not found:
        raise ValueError(f"{folder} has no pairs of similar films")
    return [FilmPair(*films, "+".join(sorted(names))) for films, names in sorted(found.items())]


def films_to_skip(pairs: Iterable[FilmPair], features: ShotFeatures, arguments: MiningArguments) -> dict[str, str]:
    """Films of the pairs that cannot be mined, with the reason.

    Raises:
        ValueError: films have no features, and `allow_missing` is not set.
    """
    num_shots = features.counts()
    listed = None if arguments.films is None else {line.split("#")[0].strip() for line in text_lines(arguments.films)}
    skipped, missing = {}, []
    for movie_id in sorted({film for pair in pairs for film in pair[:2]}):
        if listed is not None and movie_id not in listed:
            skipped[movie_id] = "not listed in --films"
        elif movie_id not in num_shots:
            missing.append(movie_id)
            skipped[movie_id] = "no shot features"
        elif num_shots[movie_id] < WINDOW:
            skipped[movie_id] = f"fewer than {WINDOW} shots"
    if missing and not arguments.allow_missing:
        raise ValueError(
            f"{arguments.features} lacks {len(missing)} films of {arguments.similar}, {missing[0]} for one; extract "
            "their features, or skip them with --allow-missing"
        )
    return skipped


def finish(dataset: FilmDataset, films: list[str], skipped: dict[str, str], film_pairs: int, **facts: Any) -> None:
    """Pack the dataset and print a summary; `facts` go into the record."""
    stored = {movie_id: film.facts for movie_id, film in dataset.films().items()}
    without = {movie_id: NO_KEYFRAMES for film in films for movie_id in stored[film]["without_keyframes"]}
    num_mined = sum(stored[film]["film_pairs_mined"] for film in films)
    facts = {"film_pairs": film_pairs, "film_pairs_mined": num_mined, **facts}
    dataset.finish(films, {**skipped, **without}, **facts)
    scores = dataset.read(["score"])["score"].to_numpy()
    print(f"{len(scores)} scene pairs of {num_mined} of {film_pairs} film pairs in {dataset.folder}")
    print(f"skipped: {_listed(Counter(dataset.record['failed'].values())) or 'no film'}")
    if len(scores):
        quartiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])
        print("scores: lowest {:.4g}, quartiles {:.4g}, {:.4g}, {:.4g}, highest {:.4g}".format(*quartiles))
    print(f"next: python -m data_scripts.pair_atlas --pairs {dataset.folder} --shots SHOTS --output atlas.html")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} films ({reason})" for reason, count in sorted(counts.items()))


def digests(pairs: Iterable[FilmPair], features: ShotFeatures) -> dict[str, str]:
    """For each film that comes first in a pair, a digest of its pairs and of the features of their films.

    Args:
        pairs: sorted by their ids.
    """
    sources = features.sources()
    return {
        movie_id: hashlib.sha256(
            json.dumps([[*pair, sources[pair.movie_id_a], sources[pair.movie_id_b]] for pair in group]).encode()
        ).hexdigest()[:12]
        for movie_id, group in itertools.groupby(pairs, key=lambda pair: pair.movie_id_a)
    }
