"""Scenes of stored films against the model called by hand; the contact sheet; errors in writing."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pipeline import assert_same_scenes, make_film, scenes_by_hand, windows_by_hand
from transformers import pipeline

from modeling_m2s import SceneEmbeddingPipeline, scene_store_m2s, shot_vectors_m2s
from modeling_m2s.figures_m2s import THUMBNAIL_WIDTH, contact_sheet, encode
from modeling_m2s.frames_m2s import ahead
from modeling_m2s.scene_store_m2s import SceneSettings, SceneStore, remove_pages, sheet_path
from modeling_m2s.shot_store_m2s import write_shots
from modeling_m2s.storage_m2s import FilmDataset, StorageError


@pytest.fixture
def embed(tiny_folder) -> SceneEmbeddingPipeline:
    """The pipeline of the tiny scene encoder."""
    return pipeline("scene-embedding", model=str(tiny_folder))


def store_film(folder: Path, film, movie_id: str = "a") -> FilmDataset:
    shots = FilmDataset(folder / "shots", "shots")
    shots.begin({})
    facts = {"fingerprint": "1", "duration_seconds": film.duration_seconds}
    write_shots(shots, movie_id, film.shots, facts)
    return shots


@pytest.mark.parametrize("scenes_per_batch", [1, 4])
@pytest.mark.parametrize(
    ("keyframes_per_shot", "shots_per_scene", "stride"),
    [
        ([1] * 20, 9, 9),
        ([1] * 150, 4, 3),  # over row groups
        ([1, 3, 2, 2, 1, 1, 4, 1, 1], 2, 1),
        ([0, 1, 2, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0], 3, 3),  # scenes without any keyframe are left out
        ([2], 9, 9),
    ],
)
def test_scenes_and_sheet_are_those_made_by_hand(
    keyframes_per_shot, shots_per_scene, stride, scenes_per_batch, embed, tiny_folder, tmp_path, monkeypatch
):
    film, opened, shares = make_film(keyframes_per_shot), [], []
    open_image = shot_vectors_m2s.open_image
    monkeypatch.setattr(shot_vectors_m2s, "open_image", lambda jpeg: opened.append(jpeg) or open_image(jpeg))
    embed.scenes_per_batch = scenes_per_batch
    shots = store_film(tmp_path, film)
    settings = SceneSettings("r", shots_per_scene, stride)
    with SceneStore(tmp_path, shots, settings, embed) as store:
        store.add(shots.part("a"), shares.append)
        assert store.embedded == {"a"}
    assert opened == [jpeg for shot in film.shots for jpeg in shot.keyframes]
    windows = windows_by_hand(len(film.shots), shots_per_scene, stride)
    windows = [(first, n) for first, n in windows if any(keyframes_per_shot[first : first + n])]
    rows = [row for table in store.dataset.read_film(store.dataset.part("a")) for row in table.to_pylist()]
    assert [row["scene_id"] for row in rows] == [f"a:{first}-{first + n - 1}" for first, n in windows]
    found = [
        {name: row[name] for name in ("first_shot", "num_shots", "start_seconds", "end_seconds")}
        | {"embedding": np.array(row["embedding"], np.float32)}
        for row in rows
    ]
    assert_same_scenes(found, scenes_by_hand(tiny_folder, film, windows))
    assert shares == sorted(shares) and shares[-1] == sum(windows[-1]) / len(film.shots)
    thumbnails = [thumbnail(shot.keyframes[0]) if shot.keyframes else None for shot in film.shots]
    starts = [shot.start_seconds for shot in film.shots]
    title = f"a   00:00:{int(film.duration_seconds):02d}   {len(film.shots)} shots, {len(windows)} scenes"
    if film.duration_seconds < 60:
        (sheet,) = (tmp_path / "contact_sheets").iterdir()
        expected = contact_sheet(title, thumbnails, starts, windows, columns=shots_per_scene)
        assert sheet.read_bytes() == encode(expected, "JPEG")


@pytest.mark.parametrize("keyframes_per_shot", [[1] * 20, [1, 3, 0, 0, 0, 0, 2, 1, 4, 1], [2]])
def test_means_are_those_of_the_shots_read_alone(keyframes_per_shot, embed, tiny_folder, tmp_path):
    film, shares = make_film(keyframes_per_shot), []
    shots = store_film(tmp_path, film)
    with SceneStore(tmp_path, shots, SceneSettings("r", 4, 3, scene_vector="mean"), embed) as store:
        store.add(shots.part("a"), shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    rows = [row for table in store.dataset.read_film(store.dataset.part("a")) for row in table.to_pylist()]
    places = [k for k, count in enumerate(keyframes_per_shot) if count]
    by_hand = scenes_by_hand(tiny_folder, film, [(k, 1) for k in places])
    alone = {k: scene["embedding"] for k, scene in zip(places, by_hand, strict=True)}
    windows = windows_by_hand(len(film.shots), 4, 3)
    expected = [[alone[k] for k in range(first, first + n) if k in alone] for first, n in windows]
    assert [(row["first_shot"], row["num_shots"]) for row in rows] == [
        window for window, each in zip(windows, expected, strict=True) if each
    ]
    means = np.stack([np.mean(each, axis=0) for each in expected if each])
    np.testing.assert_allclose(np.array([row["embedding"] for row in rows]), means, rtol=2e-3, atol=1e-3)


def test_a_long_scene_is_read_as_evenly_spaced_shots_with_keyframes(embed, tiny_folder, tmp_path):
    """The only scene of a film of equal vectors; four of its shots are read."""
    keyframes = [1, 0, 1, 1, 1, 0, 1, 2, 1, 1, 1]
    film = make_film(keyframes)
    shots = store_film(tmp_path, film)
    read = [k for k, count in enumerate(keyframes) if count]
    read = [read[place] for place in (1, 3, 5, 7)]  # the middles of four parts of nine, rounded down
    with SceneStore(tmp_path, shots, SceneSettings("r", shots_per_scene=4, scenes="story"), embed) as store:
        store._embed(shots.part("a"), [(0, len(keyframes))], {}, lambda share: None)
    (row,) = (row for table in store.dataset.read_film(store.dataset.part("a")) for row in table.to_pylist())
    assert (row["scene_id"], row["kind"]) == ("a:0-10", "story")
    chosen = replace(film, shots=[film.shots[k] for k in read])
    (scene,) = scenes_by_hand(tiny_folder, chosen, [(0, 4)])
    np.testing.assert_allclose(row["embedding"], scene["embedding"], rtol=1e-4, atol=1e-5)


def thumbnail(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((THUMBNAIL_WIDTH, image.height))
    return image


def test_a_long_film_has_several_pages(embed, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_store_m2s, "SHOTS_PER_PAGE", 7)  # rows of three: six shots a page
    film = make_film([1] * 14)
    shots = store_film(tmp_path, film)
    with SceneStore(tmp_path, shots, SceneSettings("r", 3, 3), embed) as store:
        store.add(shots.part("a"), lambda share: None)
    first = sheet_path(tmp_path, "a")
    pages = [first, first.with_name(f"{first.stem}.page-2.jpg"), first.with_name(f"{first.stem}.page-3.jpg")]
    assert sorted(first.parent.iterdir()) == sorted(pages)
    for number, page in enumerate(pages):
        chosen = film.shots[6 * number : 6 * number + 6]
        title = f"a   00:00:{int(film.duration_seconds):02d}   14 shots, 5 scenes, page {number + 1} of 3"
        windows, starts = windows_by_hand(14, 3, 3), [shot.start_seconds for shot in chosen]
        pictures = [thumbnail(shot.keyframes[0]) for shot in chosen]
        assert page.read_bytes() == encode(contact_sheet(title, pictures, starts, windows, 3, 6 * number), "JPEG")
    remove_pages(first, 1)
    assert list(first.parent.iterdir()) == [first]


def test_films_without_any_keyframe_are_refused(embed, tmp_path):
    shots = store_film(tmp_path, make_film([0, 0]))
    store = SceneStore(tmp_path, shots, SceneSettings("r"), embed)
    with store, pytest.raises(ValueError, match="none of the film's 2 shots has a keyframe"):
        store.add(shots.part("a"), print)


def test_an_error_in_writing_is_raised_by_the_next_film_or_at_the_end(embed, tmp_path):
    (tmp_path / "contact_sheets").write_text("in the way")
    shots = store_film(tmp_path, make_film([1, 1]))
    store_film(tmp_path, make_film([1]), "b")
    arguments = tmp_path, shots, SceneSettings("r"), embed
    refused = r"contact_sheets/a-.* cannot be written"
    with pytest.raises(StorageError, match=refused), SceneStore(*arguments) as store:
        store.add(shots.part("a"), print)
    with pytest.raises(StorageError, match=refused), SceneStore(*arguments) as store:
        store.add(shots.part("a"), print)
        store.add(shots.part("b"), print)
        pytest.fail("the second film was embedded")


@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_results_come_in_order_and_few_ahead(most):
    drawn: list[int] = []

    def draw():
        for number in range(10):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(3) as executor:
        for number, result in enumerate(ahead(lambda item: item**2, draw(), executor, most)):
            assert result == number**2 and len(drawn) == min(10, number + most + 1)
    assert len(drawn) == 10
