"""A catalog's films become the `shots` and `films` datasets, whatever happens to single films and between runs."""

import contextlib
import io
import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Image as ImageFeature
from datasets import List, load_dataset
from make_videos import make_audio, make_video, picture, truncate
from PIL import Image
from trees import tree

from data_scripts.detect_shots import main
from data_scripts.shots import film_stage
from data_scripts.shots.film_stage import store_catalog
from data_scripts.shots.movienet_keyframes import read_shot_list
from data_scripts.stages.runner_arguments import RunnerArguments
from modeling_m2s.shots_m2s import ShotSettings, detect_shots
from modeling_m2s.storage_m2s import SCHEMAS, FilmDataset, StorageError, exclusive
from modeling_m2s.video_m2s import fingerprint
from modeling_m2s.workers_m2s import Outcome

LENGTHS = {
    "tt0000001": [20, 31],
    "tt0000002": [40],
    "tt0000003": [17, 16, 24],
    "tt0000004": [23, 29],
    "tt0000005": [50],
}


def write_catalog(folder: Path, videos: dict[str, Path | str], **facts: str) -> Path:
    dataset = FilmDataset(folder / "movies", "movies")
    dataset.begin({})
    film = {"title": "", "year": 0, "genres": [], "synopsis": ""}
    dataset.write_all(
        [{**film, "movie_id": name, "video": str(video)} for name, video in sorted(videos.items())], **facts
    )
    return folder


def run(folder: Path, *flags: str, status: int = 0) -> None:
    """The command on `folder/movies`, which must end with this exit status."""
    argv = ["--movies", str(folder / "movies"), "--output", str(folder / "shots"), "--short_side", "48", *flags]
    if status:
        with pytest.raises(SystemExit) as raised:
            main(argv)
        assert raised.value.code == status
    else:
        main(argv)


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name.startswith(("shots/", "films/"))}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    """Five small films."""
    folder = tmp_path_factory.mktemp("films")
    return {
        name: make_video(folder / f"{name}.mp4", lengths, seed=seed)
        for seed, (name, lengths) in enumerate(LENGTHS.items())
    }


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory) -> Path:
    """What one undisturbed run makes of the films."""
    folder = write_catalog(tmp_path_factory.mktemp("whole"), films)
    run(folder, "--workers", "1")
    return folder


def test_shots_are_those_of_the_library(films, whole):
    rows = load_dataset(str(whole / "shots"), split="train").cast_column("keyframes", List(ImageFeature(decode=False)))
    expected = [
        {**vars(shot), "movie_id": name, "keyframes": [{"bytes": image, "path": None} for image in shot.keyframes]}
        for name, path in films.items()
        for shot in detect_shots(path, ShotSettings(short_side=48)).shots
    ]
    assert list(rows) == expected
    assert [row["movie_id"] for row in rows] == [name for name, lengths in LENGTHS.items() for _ in lengths]


def test_the_index_finds_each_film(films, whole):
    shots, first = load_dataset(str(whole / "shots"), split="train"), 0
    for row in load_dataset(str(whole / "films"), split="train"):
        name = row["movie_id"]
        assert (row["shard"], row["first_row"], row["num_shots"]) == (0, first, len(LENGTHS[name]))
        assert set(shots[first : first + row["num_shots"]]["movie_id"]) == {name}
        assert (row["video"], row["fingerprint"]) == (str(films[name]), fingerprint(films[name]))
        assert (row["num_frames"], row["width"], row["height"], row["damage"]) == (sum(LENGTHS[name]), 128, 96, None)
        first += row["num_shots"]
    assert first == len(shots)


def test_jobs_leave_parts_that_the_whole_run_packs(films, whole, tmp_path, capsys):
    folder = write_catalog(tmp_path, films)
    for job in (2, 0, 1):
        run(folder, "--job", f"{job}/3")
        assert "next: when all 3 jobs are done, the same command without --job" in capsys.readouterr().out
        assert not (folder / "shots/data").exists()
    assert len(list((folder / "shots/parts").iterdir())) == 5
    run(folder)
    assert "9 shots of 5 films (0 done now, 0 failed" in capsys.readouterr().out
    assert outputs(folder) == outputs(whole)


def test_what_a_killed_run_left_is_removed(films, whole, tmp_path):
    folder = write_catalog(tmp_path, films)
    for kind in ("shots", "films"):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / ".m2s-0123abcd-m2s.json.tmp").write_text("{")
    run(folder)
    assert outputs(folder) == outputs(whole)


def test_films_without_a_video_are_counted(films, whole, tmp_path, capsys):
    folder = write_catalog(tmp_path, {**films, "tt0000000": "", "tt0000009": ""})
    run(folder)
    assert "2 of 7 films of the catalog have no video" in capsys.readouterr().out
    assert json.loads((folder / "shots/m2s.json").read_text())["films_without_video"] == 2
    assert outputs(folder)["films/data/train-00000.parquet"] == outputs(whole)["films/data/train-00000.parquet"]


def test_failed_films_cost_themselves_and_are_tried_again(films, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    bad = {"tt0000006": tmp_path / "broken.mp4", "tt0000007": make_audio(tmp_path / "sound.mp4")}
    cut = make_video(tmp_path / "cut.mp4", [200], movflags="faststart")
    bad["tt0000008"], bad["tt0000009"] = truncate(cut, 0.4), tmp_path / "missing.mp4"
    folder = write_catalog(tmp_path, {**films, **bad})
    run(folder, status=1)
    said = capsys.readouterr().out
    failed = FilmDataset(folder / "shots", "shots").record["failed"]
    assert list(failed) == list(bad)
    for (name, reason), words in zip(
        failed.items(), ["not a readable video", "no video stream", "cannot be read", "No such file"], strict=True
    ):
        assert reason.startswith(str(bad[name])) and words in reason
        assert f"failed: {name}   {reason}" in said
    assert "9 shots of 5 films (5 done now, 4 failed" in said
    make_video(tmp_path / "missing.mp4", [20])
    make_video(tmp_path / "broken.mp4", [20])
    run(folder, "--min_readable", "0.3", status=1)
    assert list(FilmDataset(folder / "shots", "shots").record["failed"]) == ["tt0000007"]
    said = capsys.readouterr().out
    assert "8 films (3 done now, 1 failed" in said and "damaged films: 1, lost keyframes: 0" in said


def test_within_an_unfinished_run_a_failed_film_is_not_tried_again(films, whole, tmp_path):
    path = tmp_path / "film.mp4"
    path.touch()
    videos = {**films, "tt0000001": path}
    folder = write_catalog(tmp_path, videos)
    run(folder, "--job", "0/2", status=1)
    path.write_bytes(films["tt0000001"].read_bytes())
    run(folder, status=1)
    assert list(FilmDataset(folder / "shots", "shots").record["failed"]) == ["tt0000001"]
    run(folder)
    # The shard of the film at another path has other bytes.
    records = [FilmDataset(each / "shots", "shots").record for each in (folder, whole)]
    assert [record.pop("shards")[0]["films"] for record in records] == [len(videos)] * 2
    assert records[0] == records[1]


def test_removed_films_go_replaced_ones_are_done_again_unreachable_ones_stay(films, tmp_path, capsys):
    copies = {name: tmp_path / path.name for name, path in films.items()}
    for name, path in copies.items():
        path.write_bytes(films[name].read_bytes())
    folder = write_catalog(tmp_path, copies)
    run(folder)
    before = FilmDataset(folder / "shots", "shots").films()
    make_video(copies["tt0000002"], [21, 22, 23])
    copies["tt0000003"].unlink()
    del copies["tt0000005"]
    write_catalog(tmp_path, copies)
    capsys.readouterr()
    run(folder, status=1)
    said = capsys.readouterr().out
    assert "4 films (1 done now, 1 failed, 1 dropped" in said
    assert f"failed: tt0000003   {copies['tt0000003']}: No such file or directory" in said
    after = FilmDataset(folder / "shots", "shots").films()
    assert {name: film.num_rows for name, film in after.items()} == {
        name: 3 if name == "tt0000002" else before[name].num_rows for name in copies
    }
    assert FilmDataset(folder / "shots", "shots").record["failed"] == {}
    copies["tt0000003"].write_bytes(films["tt0000003"].read_bytes())
    run(folder)
    fresh = write_catalog(tmp_path / "fresh", copies)
    run(fresh)
    assert outputs(folder) == outputs(fresh)


@pytest.mark.parametrize(
    ("held", "flags"), [(None, []), (None, ["--job", "0/2"]), ((0, 2), ["--job", "0/2"]), ((1, 2), [])]
)
def test_a_second_run_on_the_same_films_refuses(held, flags, films, tmp_path):
    folder = write_catalog(tmp_path, films)
    with exclusive(folder / "shots", held):
        run(folder, *flags, status=f"data_scripts.detect_shots: error: {folder}/shots: another run is {doing(flags)}")
    run(folder, *flags)


def doing(flags: list[str]) -> str:
    where = "doing job 0/2 of the work or all of it" if flags else "writing"
    return f"{where} here; wait for it or choose another folder"


def test_jobs_run_at_once_and_leave_no_lock(films, whole, tmp_path):
    folder = write_catalog(tmp_path, films)
    with exclusive(folder / "shots", (1, 2)):
        run(folder, "--job", "0/2")
        assert [path.name for path in folder.rglob(".m2s-*")] == [".m2s-job-1-of-2.tmp"]
    run(folder, "--job", "1/2")
    run(folder)
    assert outputs(folder) == outputs(whole)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--movies", "{0}/none"], "no finished movies dataset"),
        (["--output", "{0}/shots"], "no films are named"),
        (["--movies", "{0}/movies"], "none of its 1 films has a video"),
        (["--movies", "{0}/movies", "--keyframes", "k"], "--keyframes and --shot-lists go together"),
        (["--keyframes", "k", "--shot_lists", "{0}"], r"0 shot lists tt….txt"),
        (["--keyframes", "k", "--shot_lists", "l", "--detector", "content"], "--detector content is for films without"),
        (["--keyframes", "k", "--shot_lists", "l", "--any_keyframe"], "--any-keyframe True is for films without"),
        (["--keyframes", "k", "--shot_lists", "l", "--min_readable", "0.5"], "--min-readable 0.5 is for films without"),
        (["--movies", "{0}/movies", "--video_info", "v.json"], "--video-info v.json is for --keyframes"),
        (["--movies", "{0}/movies", "--frame_rate", "25"], "--frame-rate 25.0 is for --keyframes"),
        (["--movies", "{0}/movies", "--detector", "x"], "--detector: invalid choice: 'x'"),
        (["--movies", "{0}/movies", "--job", "4/4"], "job='4/4' is not i/N"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(flags, words, tmp_path):
    write_catalog(tmp_path, {"tt0000001": ""})
    with pytest.raises(SystemExit, match=f"^data_scripts.detect_shots: error: .*{words}"):
        main(["--output", str(tmp_path / "shots"), *(flag.format(tmp_path) for flag in flags)])
    assert not (tmp_path / "shots").exists()


def test_other_settings_are_refused(whole):
    with pytest.raises(SystemExit, match=r"threshold is 3\.0 there, 2\.5 now"):
        main(["--movies", f"{whole}/movies", "--output", f"{whole}/shots", "--short_side", "48", "--threshold", "2.5"])


# Fake films: text files of shot lengths, done in this process, for many histories of few milliseconds.


def store_fake(movie_id: str, path: str, folder: str, report=None) -> None:
    lengths = Path(path).read_text().split()
    if lengths == ["broken"]:
        raise ValueError("it is broken")
    shot = {"start_frame": 0, "end_frame": 1, "start_seconds": 0.0, "end_seconds": 1.0}
    rows = [
        {**shot, "movie_id": movie_id, "shot_index": n, "keyframe_frames": [int(length)], "keyframes": []}
        for n, length in enumerate(lengths)
    ]
    names = ["num_frames", "frame_rate", "duration_seconds", "width", "height"]
    facts = {"video": path, "fingerprint": fingerprint(path), "damage": None, **dict.fromkeys(names, 1)}
    FilmDataset(Path(folder), "shots").write_film(movie_id, rows, facts)


class Crash(BaseException):
    """Ends a run without being handled, as a kill does."""


@pytest.fixture
def crash_after(monkeypatch):
    """Two films a shard; the work is done here, in any order, and ends by a crash after so many films."""
    monkeypatch.setitem(SCHEMAS, "shots", replace(SCHEMAS["shots"], films_per_shard=2))
    state = {"films": 10**6, "order": random.Random(0), "seen": []}

    def serial(function, inputs, **_):
        inputs = list(inputs)
        if state["order"]:
            state["order"].shuffle(inputs)
        for number, (key, arguments) in enumerate(inputs):
            if number == state["films"]:
                raise Crash
            state["seen"].append(sorted(path.name for path in Path(arguments[2]).glob("data/*")))
            try:
                yield Outcome(key, function(*arguments))
            except ValueError as error:
                yield Outcome(key, error=str(error), error_type="ValueError")

    monkeypatch.setattr(film_stage, "run_films", serial)
    return state


def bring(output: Path, films: dict[str, str], sources: Path, job: str | None = None) -> None:
    sources.mkdir(exist_ok=True)
    for name, text in films.items():
        if not (sources / name).exists() or (sources / name).read_text() != text:
            (sources / name).write_text(text)
    paths = {name: sources / name for name in films}
    store_catalog(paths, output / "shots", {}, store_fake, RunnerArguments(job=job))


@pytest.mark.parametrize("seed", range(12))
def test_bytes_do_not_depend_on_history(seed, crash_after, tmp_path):
    """Catalogs that grow, shrink, replace and break films, runs of jobs, crashes after any film."""
    generator = random.Random(seed)
    crash_after["order"] = generator
    for _ in range(6):
        names = generator.sample("abcdefghijk", generator.randint(3, 9))
        films = {name: generator.choice(["3", "4 5", "broken"]) for name in names}
        crash_after["films"] = generator.choice([1, 2, 4, 10**6])
        with contextlib.suppress(Crash):
            bring(tmp_path, films, tmp_path / "sources", generator.choice([None, None, "1/2"]))
    crash_after["films"] = 10**6
    for _ in range(2):  # the first may still know failures of the unfinished run before
        bring(tmp_path, films, tmp_path / "sources")
    bring(tmp_path / "fresh", films, tmp_path / "sources")
    assert outputs(tmp_path) == outputs(tmp_path / "fresh")
    assert FilmDataset(tmp_path / "shots", "shots").check() == []
    assert not list(tmp_path.rglob("parts"))


def test_shards_are_packed_as_soon_as_their_films_are_settled(crash_after, tmp_path):
    crash_after["order"] = None
    films = dict.fromkeys("abcdefg", "3") | {"b": "broken"}
    bring(tmp_path, films, tmp_path / "sources")
    shards = [f"train-{n:05d}.parquet" for n in range(3)]
    assert crash_after["seen"] == [[], [], [], shards[:1], shards[:1], shards[:2], shards[:2]]
    assert list(FilmDataset(tmp_path / "shots", "shots").films()) == list("acdefg")


@pytest.mark.parametrize("first", ["", "a", "abc", "abcd", "abcde"])
def test_films_that_a_catalog_gains_at_its_end_cost_none_of_the_others(first, crash_after, tmp_path):
    if first:
        bring(tmp_path, dict.fromkeys(first, "3"), tmp_path / "sources")
    for folder in (tmp_path, tmp_path / "fresh"):
        bring(folder, dict.fromkeys("abcdefgh", "3"), tmp_path / "sources")
    assert list(FilmDataset(tmp_path / "shots", "shots").films()) == list("abcdefgh")
    assert outputs(tmp_path) == outputs(tmp_path / "fresh")


def test_a_full_disk_ends_the_run_not_the_film(tmp_path, crash_after, monkeypatch):
    def full(function, inputs, **_):
        yield Outcome("b", error="parts/b: cannot be written (No space left on device)", error_type="StorageError")

    films = {"a": "3", "b": "4"}
    with monkeypatch.context() as patch:
        patch.setattr(film_stage, "run_films", full)
        with pytest.raises(StorageError, match="No space left"):
            bring(tmp_path, films, tmp_path / "sources")
    assert FilmDataset(tmp_path / "shots", "shots").failures() == {}
    bring(tmp_path, films, tmp_path / "sources")
    assert list(FilmDataset(tmp_path / "shots", "shots").films()) == ["a", "b"]


# MovieNet


def write_movienet(folder: Path, films: dict[str, list[str]], height: int = 60) -> list[str]:
    """Shot lists and an image for every keyframe; returns the flags that read them."""
    (folder / "lists").mkdir(parents=True)
    for name, lines in films.items():
        (folder / "lists" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (folder / "images" / name).mkdir(parents=True)
        for shot in range(len(lines)):
            for number in range(3):
                Image.fromarray(picture(shot, number, 80, height)).save(
                    folder / "images" / name / f"shot_{shot:04d}_img_{number}.jpg"
                )
    return ["--keyframes", f"{folder}/images", "--shot_lists", f"{folder}/lists"]


LINES = ["0 491 122 244 366", "492 1039 628 764 900", "1040 1040 1040 1040 1040"]


@pytest.mark.parametrize("per_shot", [1, 3])
def test_movienet_enters_without_videos(per_shot, tmp_path):
    flags = write_movienet(tmp_path, {"tt0217505": LINES, "tt1024648": LINES[:1]})
    main([*flags, "--output", f"{tmp_path}/shots", "--keyframes_per_shot", str(per_shot)])
    rows = load_dataset(f"{tmp_path}/shots", split="train").cast_column("keyframes", List(ImageFeature(decode=False)))
    expected = []
    for name, lines in (("tt0217505", LINES), ("tt1024648", LINES[:1])):
        for shot, line in enumerate(lines):
            start, last, *places = map(int, line.split())
            images = [
                tmp_path / f"images/{name}/shot_{shot:04d}_img_{n}.jpg" for n in ([1] if per_shot == 1 else [0, 1, 2])
            ]
            expected.append(
                {
                    "movie_id": name,
                    "shot_index": shot,
                    "start_frame": start,
                    "end_frame": last + 1,
                    "start_seconds": start / 24,
                    "end_seconds": (last + 1) / 24,
                    "keyframe_frames": places[1:2] if per_shot == 1 else places,
                    "keyframes": [{"bytes": image.read_bytes(), "path": None} for image in images],
                }
            )
    assert list(rows) == expected
    film = load_dataset(f"{tmp_path}/films", split="train")[0]
    assert (film["num_frames"], film["duration_seconds"], film["width"], film["height"]) == (1041, 1041 / 24, 80, 60)


def test_lost_keyframes_leave_their_rows(tmp_path, capsys):
    flags = write_movienet(tmp_path, {"tt0217505": LINES})
    (tmp_path / "images/tt0217505/shot_0000_img_1.jpg").unlink()
    truncate(tmp_path / "images/tt0217505/shot_0002_img_1.jpg", 0.5)
    main([*flags, "--output", f"{tmp_path}/shots"])
    rows = load_dataset(f"{tmp_path}/shots", split="train")
    assert [(row["keyframe_frames"], len(row["keyframes"])) for row in rows] == [([], 0), ([764], 1), ([], 0)]
    assert "damaged films: 1, lost keyframes: 2" in capsys.readouterr().out
    (film,) = load_dataset(f"{tmp_path}/films", split="train")
    assert film["damage"] == "2 keyframes are missing or cannot be decoded, the first: shot_0000_img_1.jpg"
    assert FilmDataset(tmp_path / "shots", "shots").record["lost_keyframes"] == 2


def test_large_keyframes_are_scaled_and_small_ones_are_not(tmp_path):
    flags = write_movienet(tmp_path, {"tt0217505": LINES})
    main([*flags, "--output", f"{tmp_path}/shots", "--short_side", "30"])
    for row in load_dataset(f"{tmp_path}/shots", split="train"):
        source = Image.open(tmp_path / f"images/tt0217505/shot_{row['shot_index']:04d}_img_1.jpg")
        (image,) = row["keyframes"]
        assert image.size == (40, 30)
        file = io.BytesIO()
        source.resize((40, 30), Image.Resampling.BOX).save(file, "JPEG", quality=90)
        assert np.abs(np.asarray(image, np.float32) - np.asarray(Image.open(file), np.float32)).mean() < 2


def test_changed_keyframes_are_read_again_and_frame_rates_are_those_of_the_film(tmp_path, capsys):
    flags = write_movienet(tmp_path, {"tt0217505": LINES, "tt1024648": LINES})
    (tmp_path / "info.json").write_text(json.dumps({"tt0217505": {"fps": "25", "frame_count": 1041}}))
    flags += ["--output", f"{tmp_path}/shots", "--video_info", f"{tmp_path}/info.json"]
    main(flags)
    assert "1 films have no frame rate there: 24" in capsys.readouterr().out
    assert load_dataset(f"{tmp_path}/films", split="train")["frame_rate"] == [25.0, 24.0]
    (tmp_path / "images/tt1024648/shot_0001_img_1.jpg").unlink()
    main(flags)
    assert "6 shots of 2 films (1 done now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the shot list is empty"),
        ("0 10 1 2\n", "line 1: '0 10 1 2' is not five frame numbers"),
        ("0 10 1 2 3\n11 x 1 2 3\n", "line 2: '11 x 1 2 3' is not five"),
        ("0 10 1 2 3\n\n", "line 2: '' is not five"),
        ("0 10 1 2 11\n", "line 1: .* is not in the order"),
        ("5 4 5 5 5\n", "line 1: .* is not in the order"),
        ("0 10 1 2 3\n10 12 10 11 12\n", "line 2: the shot starts at 10, before the last one's end 10"),
        ("<html>404</html>\n", "line 1: '<html>404</html>' is not five"),
    ],
)
def test_bad_shot_lists_cost_their_film_and_name_the_line(text, words, tmp_path):
    flags = write_movienet(tmp_path, {"tt0217505": LINES, "tt1024648": LINES})
    (tmp_path / "lists/tt1024648.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_shot_list(tmp_path / "lists/tt1024648.txt")
    with pytest.raises(SystemExit):
        main([*flags, "--output", f"{tmp_path}/shots"])
    record = FilmDataset(tmp_path / "shots", "shots").record
    assert record["num_films"] == 1
    assert record["failed"]["tt1024648"].startswith(f"{tmp_path}/lists/tt1024648.txt: ")


def test_films_without_any_keyframe_fail(tmp_path):
    flags = write_movienet(tmp_path, {"tt0217505": LINES, "tt1024648": LINES})
    (tmp_path / "images/tt0217505").rename(tmp_path / "elsewhere")
    (tmp_path / "images/tt0217505.tar").touch()
    for path in (tmp_path / "images/tt1024648").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SystemExit):
        main([*flags, "--output", f"{tmp_path}/shots"])
    reasons = list(FilmDataset(tmp_path / "shots", "shots").record["failed"].values())
    assert f"no folder {tmp_path}/images/tt0217505; unpack tt0217505.tar" in reasons[0]
    assert "none of its 3 keyframes can be read" in reasons[1]


def test_only_films_of_the_catalog_are_taken_and_its_license_goes_with_them(tmp_path, capsys):
    flags = write_movienet(tmp_path, {"tt0217505": LINES, "tt1024648": LINES})
    write_catalog(tmp_path, {"tt0217505": "", "tt0000001": ""}, license="for research only")
    main([*flags, "--movies", f"{tmp_path}/movies", "--output", f"{tmp_path}/shots"])
    assert "1 of 2 shot lists are of films outside the catalog" in capsys.readouterr().out
    shots = FilmDataset(tmp_path / "shots", "shots")
    assert (list(shots.films()), shots.record["license"]) == (["tt0217505"], "for research only")


@pytest.mark.parametrize("text", ["[]", "{", '{"tt1": 3}', '{"tt1": {"fps": 0}}', '{"tt1": {"fps": "x"}}'])
def test_bad_video_info_is_named(text, tmp_path):
    flags = write_movienet(tmp_path, {"tt0217505": LINES})
    (tmp_path / "info.json").write_text(text)
    with pytest.raises(
        SystemExit, match=r"data_scripts.detect_shots: error: .*info\.json: (not of the form|fps of tt1)"
    ):
        main([*flags, "--video_info", f"{tmp_path}/info.json", "--output", f"{tmp_path}/shots"])


def test_real_shot_lists_are_read(assets, tmp_path):
    with tarfile.open(assets / "labels/movienet_scene318.tar.gz") as archive:
        member = archive.extractfile("movienet_scene318/shot_movie318/tt0217505.txt")
        lines = io.TextIOWrapper(member).read().splitlines()
    flags = write_movienet(tmp_path, {"tt0217505": lines}, height=6)
    main([*flags, "--output", f"{tmp_path}/shots"])
    rows = load_dataset(f"{tmp_path}/shots", split="train")
    assert len(rows) == len(lines) > 1000
    assert rows["start_frame"] == [int(line.split()[0]) for line in lines]
    assert rows["end_frame"][:-1] == rows["start_frame"][1:]
