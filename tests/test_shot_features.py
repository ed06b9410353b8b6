"""Reading shot features: views of a mapped file, as written; what is not as it says is named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_scripts.features.shot_features import ShotFeatures, has_keyframe
from modeling_m2s.storage_m2s import FilmDataset, StorageError

SETTINGS = {"encoder": "m2s-clip-tiny", "revision": "c0ffee", "keyframe": "middle", "dim": 7}
LENGTHS = {f"tt{n:02d}": n * n % 41 + 1 for n in range(40)}


def film(movie_id: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([int(movie_id[2:]), seed])
    return random.normal(0, 10, (LENGTHS[movie_id], 7)).astype(np.float16)


def row(movie_id: str, features_MD: np.ndarray, **changes) -> dict:
    found = {"movie_id": movie_id, "num_shots": len(features_MD), "dim": features_MD.shape[1], "dtype": "float16"}
    return {**found, "features": features_MD.astype("<f2").tobytes(), **changes}


def write(folder: Path, *rows: dict) -> Path:
    dataset = FilmDataset(folder, "shot_features")
    dataset.begin(SETTINGS)
    for film_row in rows:
        dataset.write_film(film_row["movie_id"], [film_row], {})
    dataset.finish([film_row["movie_id"] for film_row in rows], {})
    return folder


def test_films_come_back_as_written_in_views_of_the_file(tmp_path):
    folder = write(tmp_path / "features", *(row(movie_id, film(movie_id)) for movie_id in LENGTHS))
    features = ShotFeatures(folder, cache=tmp_path / "cache")
    assert features.movie_ids == list(LENGTHS) and len(features) == 40
    assert features.num_shots.tolist() == list(LENGTHS.values())
    assert (features.dim, features.record["settings"]) == (7, SETTINGS)
    assert "tt03" in features and "tt99" not in features
    found = {movie_id: features[movie_id] for movie_id in reversed(features.movie_ids)}
    for movie_id, features_MD in found.items():
        assert features_MD.dtype == np.float16 and not features_MD.flags.writeable
        np.testing.assert_array_equal(features_MD, film(movie_id))
    with pytest.raises(KeyError, match="tt99"):
        features["tt99"]


def test_a_copy_is_made_in_small_pieces(tmp_path):
    folder = write(tmp_path / "features", *(row(movie_id, film(movie_id)) for movie_id in LENGTHS))
    ShotFeatures(folder, cache=tmp_path / "cache")
    (copy,) = (tmp_path / "cache").rglob("*.arrow")
    with pa.memory_map(str(copy)) as file, pa.ipc.open_stream(file) as batches:
        assert [batch.num_rows for batch in batches] == [16, 16, 8]


def test_a_copy_is_announced_once_and_made_again_for_another_content(tmp_path, capsys):
    folder = write(tmp_path / "features", row("tt03", film("tt03")))
    ShotFeatures(folder, cache=tmp_path / "cache")
    assert f"{folder}: an Arrow copy of 0.0 MB goes to {tmp_path / 'cache'}" in capsys.readouterr().out
    ShotFeatures(folder, cache=tmp_path / "cache")
    assert capsys.readouterr().out == ""
    write(folder, row("tt03", film("tt03", seed=1)))
    features = ShotFeatures(folder, cache=tmp_path / "cache")
    assert "an Arrow copy" in capsys.readouterr().out
    np.testing.assert_array_equal(features["tt03"], film("tt03", seed=1))


def test_shots_without_keyframe_are_rows_of_zeros(tmp_path):
    features_MD = film("tt03")
    features_MD[[0, 4]] = 0
    features_MD[7] = [0, 0, 0, 0, 0, 0, -1]
    folder = write(tmp_path / "features", row("tt03", features_MD))
    mask = has_keyframe(ShotFeatures(folder, cache=tmp_path / "cache")["tt03"])
    assert np.flatnonzero(~mask).tolist() == [0, 4] and mask.shape == (10,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 8}, "film tt05: dim is 8; expected 7"),
        ({"dtype": "float32"}, "film tt05: dtype is 'float32'; expected 'float16'"),
        ({"num_shots": 25}, "film tt05: bytes of features is 364; expected 350"),
        ({"features": None}, "film tt05: bytes of features is None; expected 364"),
    ],
)
def test_rows_that_contradict_themselves_are_named(tmp_path, changes, message):
    rows = [row("tt03", film("tt03")), row("tt05", film("tt05"), **changes)]
    folder = write(tmp_path / "features", *rows)
    with pytest.raises(StorageError, match=message):
        ShotFeatures(folder, cache=tmp_path / "cache")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_by_film_and_shot(tmp_path, value):
    bad = film("tt05")
    bad[2, 6] = value
    bad[0, 0] = np.finfo(np.float16).min  # the largest there is, is one
    folder = write(tmp_path / "features", row("tt03", film("tt03")), row("tt05", bad))
    features = ShotFeatures(folder, cache=tmp_path / "cache")
    np.testing.assert_array_equal(features["tt03"], film("tt03"))
    with pytest.raises(StorageError, match="film tt05, shot 2: a feature is infinite or not a number"):
        features["tt05"]


def test_folders_that_are_no_finished_features_are_refused(tmp_path):
    with pytest.raises(StorageError, match="nowhere: no finished shot_features dataset; run python -m"):
        ShotFeatures(tmp_path / "nowhere")
    FilmDataset(tmp_path / "begun", "shot_features").begin(SETTINGS)
    with pytest.raises(StorageError, match="begun: no finished shot_features dataset"):
        ShotFeatures(tmp_path / "begun")
    with pytest.raises(StorageError, match="empty: holds no films"):
        ShotFeatures(write(tmp_path / "empty"))


def test_features_of_another_encoder_are_refused(tmp_path):
    features = ShotFeatures(write(tmp_path / "features", row("tt03", film("tt03"))), cache=tmp_path / "cache")
    features.require_encoder({"encoder": "m2s-clip-tiny", "revision": "c0ffee"})
    with pytest.raises(StorageError, match="revision is 'c0ffee' there, 'decaf' now"):
        features.require_encoder({"encoder": "m2s-clip-tiny", "revision": "decaf"})


@pytest.mark.parametrize("name", ["run[2]", "alone [v1]", "a*b", "x?y", "[!a]", "{1,2}", "ünï [x]*"])
def test_names_of_folders_are_no_patterns(name, tmp_path):
    write(tmp_path / "run2/f", row("tt03", film("tt03", seed=1)))
    write(tmp_path / "axb/f", row("tt03", film("tt03", seed=1)))
    folder = write(tmp_path / name / "f", row("tt03", film("tt03")))
    np.testing.assert_array_equal(ShotFeatures(folder, cache=tmp_path / "cache")["tt03"], film("tt03"))
    np.testing.assert_array_equal(
        ShotFeatures(tmp_path / "run2/f", cache=tmp_path / "cache")["tt03"], film("tt03", seed=1)
    )
