"""Labeled scenes to embeddings, video after video: the work of `eval.embed_scenes`."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from safetensors.numpy import load_file, save
from tqdm import tqdm

from data_scripts.formats.labeled_scenes import LabeledScene
from data_scripts.formats.scene_lists import read_scenes
from data_scripts.mining.spaces import SHRINKAGE
from data_scripts.readers.decoded import decoded
from eval.embed_scenes import EmbedScenesArguments
from eval.embeddings.encoders import (
    FrameMeanEncoder,
    SceneEncoder,
    file_digest,
    load_scene_encoder,
    read_features,
)
from eval.embeddings.media import (
    Extent,
    Media,
    MediaError,
    Pictures,
    Reading,
    Run,
    Runs,
    SceneRead,
    StoredShots,
    VideoFiles,
    Videos,
    digest,
    scenes_by_video,
)
from eval.tasks import read_scenes as read_task_scenes
from modeling_m2s.pipeline_m2s import evenly_spaced
from modeling_m2s.storage_m2s import FilmDataset, atomic_write, exclusive
from modeling_m2s.whitening_m2s import Moments, Whitening

# Most training scenes that whitening is fitted to; their frames, nine times as many, are enough for 512 directions.
STATISTICS_SCENES = 2000
WHITENING = "whitening.safetensors"
MEDIA = {"shots": StoredShots, "videos": VideoFiles, "pictures": Pictures}


def scenes_of(arguments: EmbedScenesArguments) -> list[LabeledScene]:
    """The scenes that the flags name, from a task's labels or a CSV file.

    Raises:
        LabelError: they cannot be read.
        ValueError: an unknown task.
    """
    if arguments.scenes:
        return read_scenes(arguments.scenes)
    assert arguments.labels
    return read_task_scenes(arguments.task, arguments.labels)


def write_scene_embeddings(
    arguments: EmbedScenesArguments, scenes: Sequence[LabeledScene], state: PartialState | None = None
) -> None:
    """Write the embeddings of scenes that are not yet stored; every process does its share.

    Raises:
        StorageError: no finished shots, another run writes to the output, it holds embeddings of another encoder or
            other settings, or it cannot be written.
        ModelError: the encoder cannot be loaded.
        MediaError: the media cannot serve these scenes, or none of them.
        ValueError: the device cannot be used, or the encoder gave an infinite number.
    """
    started = time.monotonic()
    state = state or PartialState()
    dataset = FilmDataset(arguments.output, "scene_embeddings")
    with exclusive(dataset.folder) if state.is_main_process else contextlib.nullcontext():
        if arguments.features:
            if state.is_main_process:
                write_features(dataset, arguments, scenes)
            state.wait_for_everyone()
            return
        if arguments.device and state.num_processes > 1:
            raise ValueError(f"device={arguments.device} for {state.num_processes} processes: leave it out")
        encoder = load_scene_encoder(
            arguments.encoder, arguments.model, arguments.vector, arguments.device or state.device, arguments.dtype
        )
        if arguments.whiten and not isinstance(encoder, FrameMeanEncoder):
            raise ValueError(f"whiten needs vectors of single frames, but {arguments.model} reads clips")
        media = open_media(arguments, encoder)
        videos = Videos.of(scenes, media)
        if not videos.sources and not dataset.record:
            raise MediaError(f"none of {len(scenes)} scenes can be read: {next(iter(videos.missing.values()))}")
        training = training_scenes(scenes) if arguments.whiten else []
        if state.is_main_process:
            dataset.begin({**encoder.settings, **media.settings, **_settings(arguments, training)})
            if arguments.whiten:
                keep_whitening(dataset, encoder, media, videos, training, arguments)
        state.wait_for_everyone()
        if arguments.whiten:
            encoder.whitening = read_whitening(dataset)
        done = dataset.films()
        todo = [name for name, source in videos.sources.items() if not _is_done(done, name, source)]
        state.wait_for_everyone()  # every process must list the missing videos before any is written
        share = todo[state.process_index :: state.num_processes]
        write_embeddings(share, videos, media, encoder, dataset, arguments, show_progress=state.is_main_process)
        state.wait_for_everyone()
        if state.is_main_process:
            _finish(dataset, videos, media, scenes, time.monotonic() - started, len(todo))


def open_media(arguments: EmbedScenesArguments, encoder: SceneEncoder) -> Media:
    """The media that the flags name."""
    name = next(name for name in MEDIA if getattr(arguments, name))
    reading = Reading(arguments.read, arguments.shots_per_scene)
    return MEDIA[name](getattr(arguments, name), encoder.image_processor, reading)


def write_embeddings(
    names: Sequence[str],
    videos: Videos,
    media: Media,
    encoder: SceneEncoder,
    dataset: FilmDataset,
    arguments: EmbedScenesArguments,
    show_progress: bool = True,
) -> None:
    """Embed and write the scenes of some videos. Workers decode while the encoder computes."""
    batch_size = arguments.batch_size or (1 if encoder.device.type == "cpu" else 16)
    scenes = {name: videos.scenes[name] for name in names}
    rows: list[dict[str, Any]] = []
    facts: dict[str, dict[str, str]] = {"missing": {}, "notes": {}}
    num_scenes = sum(map(len, scenes.values()))
    with tqdm(total=num_scenes, unit=" scenes", disable=None if show_progress else True) as progress:
        for run in _decoded(media, scenes, encoder, arguments):
            there = [
                (scene, read) for scene, read in zip(run.scenes, run.reads, strict=True) if not isinstance(read, str)
            ]
            vectors = embed_reads([read for _, read in there], encoder, batch_size)
            for (scene, read), vector_D in zip(there, vectors, strict=True):
                rows.append(_row(scene, run.video, read.extent, vector_D, encoder.settings))
            facts["notes"] |= {scene.scene_id: read.note for scene, read in there if read.note}
            facts["missing"] |= {
                scene.scene_id: read for scene, read in zip(run.scenes, run.reads, strict=True) if isinstance(read, str)
            }
            progress.update(len(run.scenes))
            if run.is_last:
                finished = finished_rows(rows, arguments.average_neighbors)
                dataset.write_film(run.video, finished, {"source": videos.sources[run.video], **facts})
                rows, facts = [], {"missing": {}, "notes": {}}


def _decoded(
    media: Media, scenes: Mapping[str, Sequence[LabeledScene]], encoder: SceneEncoder, arguments: EmbedScenesArguments
) -> Iterator[Run]:
    runs = Runs(media, scenes)
    height, width = encoder.prepare.size
    item_bytes = media.run_length * arguments.shots_per_scene * 3 * height * width
    return decoded(runs, range(len(runs)), arguments.num_workers, encoder.device, item_bytes)


def embed_reads(reads: Sequence[SceneRead], encoder: SceneEncoder, batch_size: int) -> list[np.ndarray]:
    """One vector (D,) per scene: the mean over its windows, weighted by their numbers of frames.

    Windows of the same length are computed together, so no window is padded.
    """
    windows = [(number, window) for number, read in enumerate(reads) for window in read.windows]
    by_length: dict[int, list[int]] = {}
    for place, (_, window_FCYX) in enumerate(windows):
        by_length.setdefault(len(window_FCYX), []).append(place)
    sums: list[Any] = [0] * len(reads)
    for length, places in by_length.items():
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            vectors_BD = encoder(torch.stack([windows[place][1] for place in batch]))
            for place, vector_D in zip(batch, vectors_BD, strict=True):
                sums[windows[place][0]] = sums[windows[place][0]] + length * vector_D.astype(np.float64)
    lengths = [sum(map(len, read.windows)) for read in reads]
    return [sum_D / length for sum_D, length in zip(sums, lengths, strict=True)]


def finished_rows(rows: list[dict[str, Any]], neighbors: int) -> list[dict[str, Any]]:
    """Rows of one video in the dataset's order, averaged over neighbors in time.

    Raises:
        ValueError: an embedding is infinite or not a number.
    """
    if not rows:
        return []
    rows = sorted(rows, key=lambda row: (row["first_shot"], row["start_seconds"] or 0.0, row["scene_id"]))
    embeddings_ND = np.stack([row["embedding"] for row in rows])
    bad_N = ~np.isfinite(embeddings_ND).all(1)
    if bad_N.any():
        raise ValueError(
            f"scene {rows[int(bad_N.argmax())]['scene_id']}: its embedding is infinite or not a number; use "
            "--dtype float32, or another model"
        )
    averaged_ND = average_neighbors(embeddings_ND, neighbors).astype(np.float32)
    rows = [{**row, "embedding": vector_D} for row, vector_D in zip(rows, averaged_ND, strict=True)]
    return sorted(rows, key=lambda row: (row["first_shot"], row["scene_id"]))


def average_neighbors(embeddings_ND: np.ndarray, neighbors: int) -> np.ndarray:
    """Each scene's vector averaged with those of `neighbors` scenes before and after it, fewer at the video's ends."""
    if not neighbors:
        return embeddings_ND
    numbers = range(len(embeddings_ND))
    return np.stack([embeddings_ND[max(0, n - neighbors) : n + neighbors + 1].mean(0) for n in numbers])


def _row(
    scene: LabeledScene, video: str, extent: Extent, embedding: np.ndarray, settings: Mapping[str, Any]
) -> dict[str, Any]:
    names = {
        "scene_id": scene.scene_id,
        "movie_id": video,
        "model": settings["model"],
        "revision": settings["revision"],
        "kind": "labeled",
    }
    return {**names, **extent._asdict(), "embedding": embedding}


def _is_done(done: Mapping[str, Any], name: str, source: str) -> bool:
    return name in done and done[name].facts["source"] == source


def _finish(
    dataset: FilmDataset, videos: Videos, media: Media, scenes: Sequence[LabeledScene], seconds: float, added: int
) -> None:
    """Pack the stored videos. If a video cannot be reached now, its stored scenes are kept."""
    stored = {name: film for name, film in dataset.films().items() if name in videos.scenes}
    missing = {
        scene.scene_id: reason
        for name, reason in videos.missing.items()
        if name not in stored
        for scene in videos.scenes[name]
    }
    notes: dict[str, str] = {}
    for film in stored.values():
        missing |= film.facts["missing"]
        notes |= film.facts["notes"]
    if not any(film.num_rows for film in stored.values()):
        raise MediaError(f"none of {len(scenes)} scenes can be read: {next(iter(missing.values()))}")
    inputs = {"shots": media.frames.record["settings"]} if isinstance(media, StoredShots) else {}
    dataset.finish(
        stored,
        {name: reason for name, reason in videos.missing.items() if name not in stored},
        missing=dict(sorted(missing.items())),
        notes=dict(sorted(notes.items())),
        inputs=inputs,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    gone = [name for name in videos.missing if name in stored]
    _summarize(dataset, missing, notes, f"{added} videos now, {seconds:.1f} s")
    if gone:
        print(f"{len(gone)} videos are gone since they were embedded, and stay as they are: {', '.join(gone[:3])}")


def _summarize(dataset: FilmDataset, missing: Mapping[str, str], notes: Mapping[str, str], now: str) -> None:
    record = dataset.record
    print(f"{dataset.folder}: {record['num_rows']} scenes of {record['num_films']} videos ({now})")
    for found, what in ((missing, "cannot be read"), (notes, "were read in part")):
        if found:
            scene_id, reason = next(iter(sorted(found.items())))
            print(f"{len(found)} scenes {what}, such as {scene_id}: {reason} (all in m2s.json)")


def _settings(arguments: EmbedScenesArguments, training: Sequence[LabeledScene]) -> dict[str, Any]:
    """The record's settings besides those of the encoder and the media; unused options are left out."""
    settings: dict[str, Any] = {}
    if arguments.average_neighbors:
        settings["average_neighbors"] = arguments.average_neighbors
    if arguments.whiten:
        settings |= {"whitened_by": f"frames of {len(training)} training scenes", "shrinkage": SHRINKAGE}
        settings["training_scenes"] = digest(sorted(scene.scene_id for scene in training))
    return settings


def training_scenes(scenes: Sequence[LabeledScene]) -> list[LabeledScene]:
    """Scenes whose frames whitening is fitted to, evenly spaced over the scenes of the split train.

    Raises:
        ValueError: there are none.
    """
    training = [scene for scene in scenes if scene.split == "train"]
    if not training:
        raise ValueError("whiten needs training scenes, but no scene is in the split train")
    training.sort(key=lambda scene: scene.scene_id)
    return [training[place] for place in evenly_spaced(0, len(training), STATISTICS_SCENES)]


def keep_whitening(
    dataset: FilmDataset,
    encoder: FrameMeanEncoder,
    media: Media,
    videos: Videos,
    training: Sequence[LabeledScene],
    arguments: EmbedScenesArguments,
) -> None:
    """Fit the whitening once and save it beside the embeddings, so that later runs use the same."""
    path = dataset.folder / WHITENING
    if not path.exists():
        scenes = {name: found for name, found in scenes_by_video(training).items() if name in videos.sources}
        whitening = fit_whitening(encoder, _decoded(media, scenes, encoder, arguments))
        with atomic_write(path) as file:
            file.write(save({"mean_D": whitening.mean_D, "axes_DK": whitening.axes_DK}))


def read_whitening(dataset: FilmDataset) -> Whitening:
    """The whitening saved beside the embeddings."""
    return Whitening(**load_file(dataset.folder / WHITENING))


def fit_whitening(encoder: FrameMeanEncoder, runs: Iterator[Run]) -> Whitening:
    """Whitening fitted to all frames that the scenes are read with.

    Raises:
        ValueError: fewer than two frames, or all give the same vector.
    """
    moments = None
    for run in tqdm(runs, desc="statistics", unit=" runs", disable=None):
        for read in run.reads:
            for window_FCYX in read.windows if isinstance(read, SceneRead) else ():
                frames_FD = encoder.frames(window_FCYX)
                moments = moments or Moments(frames_FD.shape[1])
                moments.add(frames_FD)
    if moments is None:
        raise ValueError("whiten needs training scenes (split train), but none of them can be read")
    return Whitening.fit(moments, shrinkage=SHRINKAGE)


def write_features(dataset: FilmDataset, arguments: EmbedScenesArguments, scenes: Sequence[LabeledScene]) -> None:
    """Write the embeddings of scenes from a file of vectors.

    Raises:
        MediaError: the file cannot be used, or has none of the scenes.
    """
    assert arguments.features
    vectors = read_features(arguments.features)
    settings = {"encoder": "features", "model": arguments.features.name, "revision": file_digest(arguments.features)}
    dataset.begin({**settings, **_settings(arguments, [])})
    rows = []
    for video, its_scenes in scenes_by_video(scenes).items():
        there = [
            _row(
                scene,
                video,
                Extent(*(scene.shots or (0, 0)), *(scene.seconds or (None, None))),
                vectors[scene.scene_id],
                settings,
            )
            for scene in its_scenes
            if scene.scene_id in vectors
        ]
        rows += finished_rows(there, arguments.average_neighbors)
    missing = {scene.scene_id: "not in the file" for scene in scenes if scene.scene_id not in vectors}
    if not rows:
        raise MediaError(f"{arguments.features} has none of the {len(scenes)} scenes, such as {scenes[0].scene_id}")
    dataset.write_all(rows, missing=dict(sorted(missing.items())), notes={})
    _summarize(dataset, missing, {}, f"from {arguments.features.name}")
