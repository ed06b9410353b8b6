"""Shots to features, film after film: the work of `data_scripts.extract_features`."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from accelerate import PartialState
from torch.utils.data import Dataset
from tqdm import tqdm

from data_scripts.extract_features import FeatureArguments
from data_scripts.readers.decoded import decoded
from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.stages.inputs import finished, license_of
from modeling_m2s.frames_m2s import normalize
from modeling_m2s.pretrained_m2s import TINY_MODEL, load_encoder, name_without_folders
from modeling_m2s.storage_m2s import FilmDataset, StoredFilm, exclusive

IMAGE_EMBEDS = "image_embeds"


def extract_features(arguments: FeatureArguments, state: PartialState | None = None) -> None:
    """Write the `shot_features` of a `shots` dataset, or the missing ones; every process does its share.

    The record's settings name the encoder and its revision; `inputs` are the settings of the shots, and
    `without_keyframe` counts shots whose feature is zeros.

    Raises:
        StorageError: the shots are not finished, another run writes to the output, it holds features of another
            encoder, or it cannot be written.
        ModelError: the model cannot be loaded.
        ValueError: the device cannot be used, or the model gave an infinite number.
    """
    started = time.monotonic()
    state = state or PartialState()
    shots, dataset = finished(arguments.shots, "shots"), FilmDataset(arguments.output, "shot_features")
    if arguments.device and state.num_processes > 1:
        raise ValueError(
            f"device={arguments.device} for {state.num_processes} processes: leave it out, each has its own"
        )
    encoder = ShotEncoder(arguments.model, arguments.device or state.device, arguments.dtype, arguments.vector)
    is_trained = os.path.exists(os.path.join(arguments.model, "training.json"))
    if state.is_main_process and is_trained and arguments.vector == "image_embeds":
        print(f"{arguments.model} was trained by contrast, its projection was not: consider --vector pooler_output")
    if state.is_main_process and arguments.model == TINY_MODEL:
        print(f"encoder: {TINY_MODEL}, which ships with m2s; the paper's: --model openai/clip-vit-base-patch16")
    with exclusive(dataset.folder) if state.is_main_process else contextlib.nullcontext():
        if state.is_main_process:
            dataset.begin(encoder.settings)
        state.wait_for_everyone()
        settings, films, done = shots.record["settings"], shots.films(parts=False), dataset.films()
        missing = [
            film
            for movie_id, film in films.items()
            if movie_id not in done or done[movie_id].facts["source"] != _source(film, settings)
        ]
        state.wait_for_everyone()  # so that every process finds the same films missing
        share = missing[state.process_index :: state.num_processes]
        write_features(share, shots, dataset, encoder, arguments, show_progress=state.is_main_process)
        state.wait_for_everyone()
        if state.is_main_process:
            added = sum(film.num_rows for film in missing)
            _finish(dataset, shots, films.keys(), len(missing), added, time.monotonic() - started)


class ShotEncoder:
    """E_fixed: an image tower on one device.

    Args:
        model: CLIP checkpoint or scene encoder, a folder or a Hub id; a scene encoder reads a scene of one frame.
        vector: the feature, image_embeds or pooler_output.

    Attributes:
        settings: what features depend on besides the shots, for their record. A folder is recorded by its name alone,
            because its path differs between machines and its revision identifies it. The vector is recorded only if
            it is not the default.
    """

    def __init__(self, model: str, device: str | torch.device, dtype: str, vector: str = IMAGE_EMBEDS):
        encoder, self.image_processor, revision = load_encoder(model)
        try:
            self.model = encoder.to(device)
        except (AssertionError, RuntimeError) as error:  # torch's errors if there is no such device
            raise ValueError(f"device={device} cannot be used: {error}") from error
        self.device, self.dtype, self.vector = self.model.device, getattr(torch, dtype), vector
        config = self.model.config
        self.dim: int = config.projection_dim if vector == IMAGE_EMBEDS else config.hidden_size
        self.settings = {
            "encoder": name_without_folders(model),
            "revision": revision,
            "keyframe": "middle",
            "image_size": config.image_size,
            "dtype": dtype,
            "dim": self.dim,
        }
        if vector != IMAGE_EMBEDS:
            self.settings["vector"] = vector

    @torch.inference_mode()
    def __call__(self, pixels_NCYX: torch.Tensor) -> torch.Tensor:
        """Features float16 (N, dim), on the encoder's device, of resized and cropped uint8 pixels."""
        if not len(pixels_NCYX):
            return torch.zeros((0, self.dim), dtype=torch.float16, device=self.device)
        values_NCYX = normalize(pixels_NCYX.to(self.device, non_blocking=True), self.image_processor)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.model(pixel_values=values_NCYX[:, None])
        return (outputs.scene_embeds if self.vector == IMAGE_EMBEDS else outputs.pooler_output).half()


class Run(NamedTuple):
    """Neighboring shots of one film, decoded.

    `film` is the film's number and `num_shots` the length of the run. `shot_N` holds the numbers in the film of those
    shots that have a keyframe, and `pixels_NCYX` holds their pixels.
    """

    film: int
    num_shots: int
    is_last: bool
    shot_N: torch.Tensor
    pixels_NCYX: torch.Tensor


class ShotRuns(Dataset):
    """The middle keyframes of films, as `Run`s in order.

    A run never spans two films: the composition of a batch changes the last bits, and a film's features must not depend
    on which films were processed before it.
    """

    def __init__(self, frames: SceneFrames, films: Sequence[StoredFilm], run_length: int):
        self.frames, self.films, self.run_length = frames, films, run_length
        self.starts = [
            (number, first)
            for number, film in enumerate(films)
            for first in range(0, max(1, film.num_rows), run_length)
        ]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Run:
        number, first = self.starts[index]
        film = self.films[number]
        num_shots = min(self.run_length, film.num_rows - first)
        pixels_NCYX, readable_N = self.frames.read(film.movie_id, first, num_shots)
        is_last = first + num_shots == film.num_rows
        return Run(number, num_shots, is_last, first + readable_N.nonzero()[:, 0], pixels_NCYX[readable_N])


def write_features(
    films: Sequence[StoredFilm],
    shots: FilmDataset,
    dataset: FilmDataset,
    encoder: ShotEncoder,
    arguments: FeatureArguments,
    show_progress: bool = True,
) -> None:
    """Compute and write the features of films. While one film is written, the next is computed."""
    on_cpu = encoder.device.type == "cpu"
    # Every shot is read once and in order, so an Arrow copy would cost more than it saves.
    frames = SceneFrames(shots.folder, encoder.image_processor, arrow_copy=False)
    runs = ShotRuns(frames, films, arguments.batch_size or (16 if on_cpu else 256))
    item_bytes = runs.run_length * frames.frame_bytes
    loader = decoded(runs, range(len(runs)), arguments.num_workers, encoder.device, item_bytes)
    settings, num_shots = shots.record["settings"], sum(film.num_rows for film in films)
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    written: Future[None] | None = None
    with (
        tqdm(total=num_shots, unit=" shots", disable=None if show_progress else True) as progress,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        for run in loader:
            results.append((run.shot_N, encoder(run.pixels_NCYX)))
            progress.update(run.num_shots)
            if run.is_last:
                if written:
                    written.result()  # raises the writer's error, such as a full disk, before more is computed
                film = films[run.film]
                written = writer.submit(_write_film, dataset, film, results, encoder.dim, _source(film, settings))
                results = []
        if written:
            written.result()


def _write_film(
    dataset: FilmDataset, film: StoredFilm, results: list[tuple[torch.Tensor, torch.Tensor]], dim: int, source: str
) -> None:
    features_MD = np.zeros((film.num_rows, dim), dtype="<f2")
    for shot_N, embeds_ND in results:
        features_MD[shot_N.numpy()] = embeds_ND.cpu().numpy()
    wrong = ~np.isfinite(features_MD).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"film {film.movie_id}, shot {int(wrong.argmax())}: the encoder's feature is infinite or not a number in "
            "float16; use --dtype float32, or another model"
        )
    row = {
        "movie_id": film.movie_id,
        "num_shots": film.num_rows,
        "dim": dim,
        "dtype": "float16",
        "features": features_MD.tobytes(),
    }
    missing = film.num_rows - sum(len(shot_N) for shot_N, _ in results)
    dataset.write_film(film.movie_id, [row], {"source": source, "without_keyframe": missing})


def _source(film: StoredFilm, settings: dict[str, Any]) -> str:
    """A hash that changes if the film is replaced, or its shots are detected with other `settings`."""
    content = [settings, film.facts, film.num_rows]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _finish(
    dataset: FilmDataset,
    shots: FilmDataset,
    movie_ids: Collection[str],
    films_added: int,
    shots_added: int,
    seconds: float,
) -> None:
    without = sum(film.facts["without_keyframe"] for film in dataset.films().values() if film.movie_id in movie_ids)
    dataset.finish(
        movie_ids,
        {},
        inputs={"shots": shots.record["settings"]},
        without_keyframe=without,
        **license_of(shots),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    print(
        f"{dataset.folder}: {shots.record['num_rows']} shots of {len(movie_ids)} films, {without} without a keyframe "
        f"({films_added} films now, {shots_added / seconds:.1f} shots/s)"
    )
    if dataset.record["settings"].get("vector") == "pooler_output":
        print(
            f"next: python -m data_scripts.mine_scene_pairs --space whitened --features {dataset.folder} "
            "--similar SIMILAR_MOVIES --output SCENE_PAIRS"
        )
    else:
        print(
            f"next: accelerate launch -m train.train_mil --features {dataset.folder} --similar SIMILAR_MOVIES "
            "--output RUN"
        )
