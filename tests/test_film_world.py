"""A generated film world: the same seed gives the same world, a run goes on, cuts are where the truth says."""

import csv
from pathlib import Path

import pytest
from datasets import load_dataset

from data_scripts.make_film_world import main
from data_scripts.world_plan import WorldSettings, plan_world, with_frames
from modeling_m2s.shots_m2s import detect_shots
from modeling_m2s.storage_m2s import StorageError

SMALL = ["--num_films", "3", "--film_seconds", "12", "--width", "160", "--height", "90"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_also_after_a_loss(tmp_path):
    for name in ("a", "b"):
        main([*SMALL, "--keyframes_only", "true", "--output", str(tmp_path / name)])
    whole = tree(tmp_path / "a")
    assert whole == tree(tmp_path / "b") and len(whole) > 6
    (tmp_path / "b/metadata/ratings.csv").unlink()
    main([*SMALL, "--keyframes_only", "true", "--output", str(tmp_path / "b")])
    assert tree(tmp_path / "b") == whole


def test_only_missing_videos_are_drawn_again(tmp_path):
    main([*SMALL, "--output", str(tmp_path)])
    whole = tree(tmp_path)
    (tmp_path / "videos/tt9000001.mp4").unlink()
    main([*SMALL, "--output", str(tmp_path)])
    again = tree(tmp_path)
    assert again.keys() == whole.keys() and len(whole) == 10
    assert [name for name in whole if again[name] != whole[name]] in ([], ["videos/tt9000001.mp4"])


def test_another_world_in_the_same_folder_is_refused(tmp_path):
    main([*SMALL, "--keyframes_only", "true", "--output", str(tmp_path)])
    with pytest.raises(StorageError, match="seed is 0 there, 1 now"):
        main([*SMALL, "--keyframes_only", "true", "--output", str(tmp_path), "--seed", "1"])


def test_keyframes_are_a_shots_dataset_at_the_true_boundaries(tmp_path):
    main([*SMALL, "--keyframes_only", "true", "--output", str(tmp_path)])
    rows = load_dataset(str(tmp_path / "shots"), split="train")
    with open(tmp_path / "truth/shots.csv", newline="") as file:
        truth = [(row["movie_id"], int(row["start_frame"]), int(row["end_frame"])) for row in csv.DictReader(file)]
    assert list(zip(rows["movie_id"], rows["start_frame"], rows["end_frame"], strict=True)) == truth
    assert rows[0]["keyframes"][0].size == (160, 90)


def test_cuts_are_found_where_they_are(tmp_path):
    main(["--num_films", "1", "--film_seconds", "30", "--output", str(tmp_path)])
    (film,) = plan_world(WorldSettings(num_films=1, film_seconds=30))
    found = {shot.start_frame for shot in detect_shots(tmp_path / "videos/tt9000000.mp4").shots}
    assert found == {start for _, start, _ in with_frames(film)}


def test_settings_that_make_no_world_are_refused():
    for wrong in ({"num_films": 0}, {"num_themes": 9}, {"favored": 13}, {"focus": 1.5}):
        with pytest.raises(ValueError):
            WorldSettings(**wrong)
