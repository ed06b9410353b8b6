"""Batches of scene pairs: which pairs, shots and patches a step reads, shared among processes, and bad input."""

import codecs
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from moco_world import SCENE, movie_ids, num_shots, write_labels, write_pairs, write_shots
from transformers import AutoImageProcessor

from data_scripts.features.scene_embedding import Scene, read_scene
from data_scripts.readers import decoded as loading
from data_scripts.readers.decoded import decoded
from data_scripts.readers.scene_frames import SceneFrames
from m2s.commands import parse
from modeling_m2s.errors_m2s import UserError
from modeling_m2s.storage_m2s import FilmDataset, StorageError
from train.moco.augment import augment, draw_augmentations
from train.moco.pairs import START, BatchPlan, PairBatches, ScenePairs
from train.moco.recipe import MoCoData, MoCoRecipe
from train.moco.retrieval import LabeledScenes

CONFIGS = Path(__file__).parent.parent / "train/configs"

PATCHES = 16


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moco_pairs")
    broken = {(0, 1): b"no picture", (0, 2): b"", (5, 0): b"no", (5, 1): b"no", (5, 2): b"no"}
    write_shots(folder / "shots", broken=broken)
    write_pairs(folder / "pairs", lengths=(SCENE, 3))
    return folder


@pytest.fixture(scope="module")
def frames(catalog, tiny_folder) -> SceneFrames:
    return SceneFrames(catalog / "shots", AutoImageProcessor.from_pretrained(tiny_folder), cache=catalog / "cache")


@pytest.fixture(scope="module")
def pairs(catalog, frames) -> ScenePairs:
    return ScenePairs.read(catalog / "pairs", frames)


def batches(pairs: ScenePairs, frames: SceneFrames, share=(0, 1), **fields) -> PairBatches:
    recipe = MoCoRecipe(**{"batch_size": 8, "shots_per_scene": 3, "seed": 5, **fields})
    plan = BatchPlan(pairs.num_shots_P, recipe.batch_size, recipe.seed)
    return PairBatches(pairs, frames, plan, recipe, share, PATCHES)


def test_pairs_are_the_rows_of_the_dataset(catalog, pairs):
    rows = FilmDataset(catalog / "pairs", "scene_pairs").read().to_pylist()
    assert len(pairs) == len(rows) == pairs.counts["scene_pairs"]
    for row, films, first, length in zip(rows, pairs.films_P2, pairs.first_P2, pairs.num_shots_P, strict=True):
        assert [pairs.movie_ids[film] for film in films] == [row["movie_id_a"], row["movie_id_b"]]
        assert [*first, length] == [row["first_shot_a"], row["first_shot_b"], row["num_shots"]]


def test_pairs_of_films_that_are_left_out_are_counted(catalog, frames, pairs):
    left_out = movie_ids(3)[1:]
    fewer = ScenePairs.read(catalog / "pairs", frames, left_out)
    assert fewer.movie_ids == sorted({*pairs.movie_ids} - {*left_out})
    rows = FilmDataset(catalog / "pairs", "scene_pairs").read().to_pylist()
    kept = [[row[f"{name}_{side}"] for name in ("movie_id", "first_shot") for side in "ab"] for row in rows]
    kept = [row for row in kept if not {*row[:2]} & {*left_out}]
    for row, films, first in zip(kept, fewer.films_P2, fewer.first_P2, strict=True):
        assert row == [*(fewer.movie_ids[film] for film in films), *first]
    assert fewer.counts == {"scene_pairs": len(fewer), "scene_pairs_left_out": len(pairs) - len(fewer)}
    assert fewer.digest() != pairs.digest()
    with pytest.raises(ValueError, match="no scene pairs to train on"):
        ScenePairs.read(catalog / "pairs", frames, movie_ids(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_shot_b": 12}, r"begins at shot 12 and has 5 shots, but the film has \d+; mine the pairs"),
        ({"first_shot_a": -1}, r"begins at shot -1"),
        ({"movie_id_b": "tt9999999"}, "the shots lack 1 of its films, tt9999999"),
        ({"movie_id_b": movie_ids(1)[0]}, f"all scenes are of film {movie_ids(1)[0]}"),
    ],
)
def test_pairs_that_the_shots_do_not_hold_are_refused(tmp_path, frames, change, message):
    first, other = movie_ids(5)[0], movie_ids(5)[4]
    row = {"movie_id_a": first, "first_shot_a": 0, "movie_id_b": other, "first_shot_b": 0, "num_shots": SCENE}
    dataset = FilmDataset(tmp_path / "pairs", "scene_pairs")
    dataset.begin({})
    dataset.write_all([{**row, "score": 1.0, "source": "genre", **change}])
    with pytest.raises((StorageError, ValueError), match=message):
        ScenePairs.read(tmp_path / "pairs", frames)


def test_pairs_mined_before_a_film_was_cut_into_other_shots_are_refused(tmp_path, frames):
    first, other = movie_ids(5)[0], movie_ids(5)[4]
    row = {"movie_id_a": first, "first_shot_a": 0, "movie_id_b": other, "first_shot_b": 0, "num_shots": SCENE}
    there = frames.num_shots[first]
    for recorded, refused in (({}, False), ({"num_shots": there}, False), ({"num_shots": there + 1}, True)):
        dataset = FilmDataset(tmp_path / f"pairs {recorded}", "scene_pairs")
        dataset.begin({})
        dataset.write_film(first, [{**row, "score": 1.0, "source": "genre"}], recorded)
        dataset.finish([first], {})
        if refused:
            with pytest.raises(StorageError, match=f"film {first} had {there + 1} shots .* and has {there} now"):
                ScenePairs.read(dataset.folder, frames)
        else:
            assert len(ScenePairs.read(dataset.folder, frames)) == 1


def test_plan_is_a_pure_function_that_reads_each_pair_at_most_once_an_epoch(pairs):
    plan, again = (BatchPlan(pairs.num_shots_P, 7, 3) for _ in range(2))
    counts = [int((pairs.num_shots_P == length).sum()) for length in (3, SCENE)]
    assert plan.steps_per_epoch == sum(count // 7 for count in counts) > 3
    steps = range(2 * plan.steps_per_epoch)
    forward = [plan.batch(step) for step in steps]
    backward = [again.batch(step) for step in reversed(steps)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    for epoch in (forward[: plan.steps_per_epoch], forward[plan.steps_per_epoch :]):
        assert len(set(np.concatenate(epoch))) == 7 * plan.steps_per_epoch
        assert all(len(set(pairs.num_shots_P[batch])) == 1 for batch in epoch)
    assert not np.array_equal(forward[0], forward[plan.steps_per_epoch])
    assert not np.array_equal(forward[0], plan.batch(0, START))
    assert not np.array_equal(forward[0], BatchPlan(pairs.num_shots_P, 7, 4).batch(0))


def test_fewer_pairs_than_a_batch_are_refused(pairs):
    with pytest.raises(
        ValueError, match=rf"batch_size is 500, but of the {len(pairs)} scene pairs only 45 have the same"
    ):
        BatchPlan(pairs.num_shots_P, 500, 0)


def test_scenes_are_the_frames_of_the_drawn_shots(pairs, frames):
    each = batches(pairs, frames)
    for step in range(each.plan.steps_per_epoch):
        batch, chosen = each[step], each.plan.batch(step)
        assert batch.pixels_2bFCYX.shape == (2, 8, 3, 3, 32, 32) and batch.pixels_2bFCYX.dtype == torch.uint8
        for place, pair in enumerate(chosen):
            films = batch.films_2B[:, place].tolist()
            assert sorted(films) == sorted(pairs.films_P2[pair].tolist())
            for side, film in enumerate(films):
                start = pairs.first_P2[pair][pairs.films_P2[pair].tolist().index(film)]
                scene = frames.read(pairs.movie_ids[film], start, pairs.num_shots_P[pair])
                if not scene.readable_F.all():
                    continue
                same = (batch.pixels_2bFCYX[side, place][:, None] == scene.pixels_FCYX[None]).flatten(2).all(-1)
                order = same.float().argmax(1)
                assert same.any(1).all() and (order[1:] > order[:-1]).all()


def test_either_scene_of_a_pair_comes_first_and_any_shots_are_drawn(pairs, frames):
    each = batches(pairs, frames)
    sides = np.concatenate([each._draw_sides(step, 8)[0] for step in range(20)])
    assert 0.3 < sides.mean() < 0.7
    shots = np.concatenate([each._draw_shots(step, SCENE, 8).reshape(-1, 3) for step in range(20)])
    assert set(shots.ravel()) == set(range(SCENE)) and (np.diff(shots) > 0).all()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_shares_of_two_processes_join_to_one_batch(pairs, frames, accumulation):
    fields = {"patch_dropout": 0.5, "augment": True, "accumulation": accumulation}
    whole = batches(pairs, frames, **fields)[3]
    shares = [batches(pairs, frames, (process, 2), **fields)[3] for process in (0, 1)]
    for number in range(accumulation):
        expected, parts = whole.part(number, accumulation), [share.part(number, accumulation) for share in shares]
        for name in ("pixels_2bFCYX", "kept_2bP", "augmentations_2bA"):
            joined = torch.cat([getattr(part, name) for part in parts], 1)
            assert torch.equal(joined, getattr(expected, name)), name
        assert all(torch.equal(part.films_2B, expected.films_2B) for part in parts)


def test_equally_many_patches_of_every_frame_are_kept(pairs, frames):
    kept = batches(pairs, frames, patch_dropout=0.7)[0].kept_2bP
    assert kept.shape == (2, 8, 3 * 5)  # 0.3 of 16 patches, rounded
    counts = torch.stack([(kept // PATCHES == frame).sum(-1) for frame in range(3)])
    assert (counts == 5).all() and (kept.diff(dim=-1) > 0).all()
    assert batches(pairs, frames)[0].kept_2bP is None
    assert not torch.equal(kept, batches(pairs, frames, patch_dropout=0.7)[1].kept_2bP)


def test_a_frame_that_does_not_decode_shows_its_neighbor_and_is_named(pairs, frames):
    each, film = batches(pairs, frames), movie_ids(6)[0]
    pixels, missing = read_scene(frames, Scene(film, range(5)))
    assert missing == [(film, 1), (film, 2)]
    good = frames.read(film, 0, 5).pixels_FCYX
    assert torch.equal(pixels, good[[0, 0, 3, 3, 4]])
    pixels, missing = read_scene(frames, Scene(movie_ids(6)[5], [0, 2]))
    assert missing == [(movie_ids(6)[5], 0), (movie_ids(6)[5], 2)] and not pixels.any()
    named = {name for step in range(each.plan.steps_per_epoch) for name in each[step].unreadable}
    assert named and named <= {(film, 1), (film, 2), *((movie_ids(6)[5], shot) for shot in range(3))}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaded_batches_come_in_order(pairs, frames, num_workers):
    each = batches(pairs, frames, patch_dropout=0.5)
    loaded = list(decoded(each, range(1, 4), num_workers, torch.device("cpu")))
    for step, batch in zip(range(1, 4), loaded, strict=True):
        assert torch.equal(batch.pixels_2bFCYX, each[step].pixels_2bFCYX)
        assert torch.equal(batch.kept_2bP, each[step].kept_2bP) and batch.unreadable == each[step].unreadable


class Failing(torch.utils.data.Dataset):
    """Items of which one cannot be read, and one kills the process that reads it."""

    def __getitem__(self, number: int) -> int:
        if number == 3:
            raise StorageError("shard 3 is cut")
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_worker_raises_arrives_as_it_is(num_workers):
    with pytest.raises(StorageError, match=r"^shard 3 is cut$"):
        list(decoded(Failing(), range(6), num_workers, torch.device("cpu")))


def test_a_killed_worker_is_named():
    with pytest.raises(UserError, match=r"a process that decodes frames ended .* use a lower num_workers"):
        list(decoded(Failing(), [5], 1, torch.device("cpu")))


def test_workers_fit_into_the_shared_memory(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(loading, "SHARED_MEMORY", Path("/"))
    assert [loading.default_workers(size) for size in (0, 10, 100, 300)] == [16, 16, 2, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [loading.default_workers(size) for size in (0, 10, 100)] == [4, 4, 0]


def test_augmentation_is_the_same_for_all_frames_of_a_scene_and_differs_between_scenes():
    random = np.random.default_rng(0)
    numbers = draw_augmentations(random, 3)[0]
    frame = torch.from_numpy(random.integers(0, 256, (1, 1, 3, 16, 16), np.uint8))
    changed = augment(frame.expand(3, 4, -1, -1, -1), numbers)
    assert changed.dtype == torch.uint8 and changed.shape == (3, 4, 3, 16, 16)
    assert (changed == changed[:, :1]).all() and not torch.equal(changed[0], changed[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(frame.expand(3, 4, -1, -1, -1), numbers), changed)


def test_each_number_of_an_augmentation_does_what_it_says():
    frames = torch.randint(0, 256, (1, 2, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = ("size", "x", "y", "mirror", "brightness", "contrast", "saturation")
    plain = dict(zip(names, [1.0, 0, 0, 1, 1, 1, 1], strict=True))

    def changed(**numbers) -> torch.Tensor:
        return augment(frames, torch.tensor([list({**plain, **numbers}.values())]))

    assert torch.equal(changed(), frames)
    assert torch.equal(changed(mirror=-1.0), frames.flip(-1))
    halved = changed(size=0.5, x=-0.5, y=0.5)[0, :, :, 1:-1:2, 1:-1:2].float()
    assert halved.shape[-1] == 5  # a crop of the lower left quarter: every other pixel lies between its neighbors'
    quarter = frames[0, :, :, 6:, :6].float()
    low, high = quarter.unfold(2, 2, 1).unfold(3, 2, 1).flatten(-2).aminmax(dim=-1)
    assert (halved >= low.floor() - 1).all() and (halved <= high.ceil() + 1).all()
    torch.testing.assert_close(changed(brightness=0.5).float(), frames.float() / 2, atol=0.51, rtol=0)
    gray = changed(saturation=0.0)
    assert (gray.amax(2) - gray.amin(2)).max() <= 1
    flat = changed(contrast=0.0, saturation=0.0).float()
    assert (flat.amax((-1, -2)) - flat.amin((-1, -2))).max() <= 1


def test_labeled_scenes_are_read_and_measured(tmp_path, frames, tiny_folder):
    from modeling_m2s import M2SSceneModel

    write_labels(tmp_path / "labels.csv", range(8, 12))
    labeled = LabeledScenes.read(tmp_path / "labels.csv", frames)
    assert labeled.movie_ids == set(movie_ids(12)[8:]) and len(labeled.scenes) == 8
    found = labeled.measure(M2SSceneModel.from_pretrained(tiny_folder))
    assert found == {"precision_at_1": 0.0, "precision_at_5": 0.0}  # each of these films has a theme of its own


def test_labels_of_a_spreadsheet_are_read(tmp_path, frames):
    """It writes a byte order mark."""
    write_labels(tmp_path / "labels.csv", range(8, 12))
    plain = LabeledScenes.read(tmp_path / "labels.csv", frames)
    (tmp_path / "marked.csv").write_bytes(codecs.BOM_UTF8 + (tmp_path / "labels.csv").read_bytes())
    marked = LabeledScenes.read(tmp_path / "marked.csv", frames)
    assert (marked.scenes, marked.labels) == (plain.scenes, plain.labels)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["movie_id,first_shot,label", "tt2000000,0,a"], "no column num_shots"),
        (["movie_id,first_shot,num_shots,label", "tt2000000,0,3"], "line 2: 3 cells, where the header has 4"),
        (["movie_id,first_shot,num_shots,label", "tt2000000,x,3,a"], "line 2: first_shot and num_shots must be whole"),
        (["movie_id,first_shot,num_shots,label", "tt2000000,9,3,a"], f"which has {num_shots(0)} shots"),
        (["movie_id,first_shot,num_shots,label", "tt7,0,3,a"], "film tt7, which has 0 shots"),
        (["movie_id,first_shot,num_shots,label", "tt2000000,0,3,a"], "at least two films"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, frames, lines, message):
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        LabeledScenes.read(tmp_path / "labels.csv", frames)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("inf")}, "temperature is inf; it must be a number from 0 on"),
        ({"head_learning_rate": -1.0}, "head_learning_rate is -1.0"),
        ({"objective": "both"}, "objective is 'both'; it must be one of momentum, in_batch"),
        ({"position_interpolation": "rows"}, "position_interpolation is 'rows'; it must be one of grid"),
        ({"measure_steps": 0}, "measure_steps is 0"),
        ({"patch_dropout": 1.0}, "patch_dropout is 1.0; it must be a share"),
        ({"batch_size": 9, "accumulation": 2}, "batch_size 9 is not a multiple of accumulation 2"),
        ({"objective": "in_batch", "symmetric": True}, "in_batch is symmetric already"),
        ({"objective": "in_batch", "momentum": 0.9}, "momentum 0.9 is an option of the momentum objective"),
        ({"objective": "in_batch", "momentum_schedule": "cosine"}, "momentum_schedule cosine is an option"),
        ({"frozen_layers": -1}, "frozen_layers is -1"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_impossible_recipes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MoCoRecipe(**fields)


def test_in_batch_may_be_added_to_a_recipe_with_a_queue():
    flags = [str(CONFIGS / "moco_one_gpu.yaml"), "--objective", "in_batch"]
    assert parse(MoCoRecipe, flags)[0].queue_size == 16384


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_unreadable": 1.5}, "max_unreadable is 1.5"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_impossible_settings_of_the_data_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MoCoData(pairs=Path("pairs"), shots="shots", **fields)
