"""Embeddings of labeled scenes against scenes put together by hand; kills; media that are missing or were replaced."""

import csv
import io
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from forked_runs import ForkedRuns
from make_videos import make_video, trim
from PIL import Image
from test_extract_features import BROKEN, content, make_shots
from transformers import CLIPImageProcessorPil

from data_scripts.formats.labeled_scenes import LabeledScene
from data_scripts.formats.scene_lists import read_scenes
from eval.embed_scenes import main
from eval.embeddings.encoders import load_scene_encoder
from eval.embeddings.media import Pictures, Reading, VideoFiles
from eval.embeddings.scenes import SHRINKAGE, average_neighbors
from eval.reports.pictures import SceneKeyframes
from modeling_m2s import M2SSceneModel, M2SSceneProcessor
from modeling_m2s.decoding_m2s import frame_times
from modeling_m2s.storage_m2s import FilmDataset
from modeling_m2s.whitening_m2s import Moments, Whitening

COLUMNS = ("scene_id", "movie_id", "video", "split", "start_seconds", "end_seconds", "first_shot", "num_shots")
LENGTHS = {"tt01": 1, "tt02": 16, "tt03": 17, "tt04": 35}  # shots of a second each; some have no keyframe that decodes
PART_COLUMNS = ",".join(COLUMNS)
SCENES = [
    ("whole", "tt04", "", "", "", ""),
    ("seconds", "tt04", "3.5", "7.2", "", ""),
    ("cuts", "tt04", "4", "6", "", ""),
    ("shots", "tt04", "", "", "20", "11"),
    ("one", "tt01", "", "", "", ""),
    ("few", "tt03", "", "", "2", "3"),
]
# Shots that each is read as, counted out by hand.
SHOTS_READ = {
    "whole": [1, 5, 9, 13, 17, 21, 25, 29, 33],
    "seconds": [3, 4, 5, 6, 7],
    "cuts": [4, 5],
    "shots": [20, 21, 23, 24, 25, 26, 27, 29, 30],
    "one": [0],
    "few": [2, 3, 4],
}


def write_scenes(path: Path, scenes=SCENES, splits: dict[str, str] | None = None) -> Path:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for scene_id, video, *parts in scenes:
            rows.writerow([scene_id, f"film of {video}", video, (splits or {}).get(scene_id, "test"), *parts])
    return path


def run(folder: Path, output: str, *flags: str, model: Path | None = None) -> None:
    words = ["--scenes", str(folder / "scenes.csv"), "--output", str(folder / output)]
    words += [] if "--features" in flags else ["--num_workers", "0"]
    main([*words, *(["--model", str(model)] if model else []), *map(str, flags)])


def embeddings(folder: Path) -> dict[str, np.ndarray]:
    table = FilmDataset(folder, "scene_embeddings").read().to_pydict()
    return dict(zip(table["scene_id"], np.array(table["embedding"]), strict=True))


def keyframes(shots: Path, video: str, numbers: list[int]) -> list[Image.Image]:
    """Keyframes of shots; one that is missing shows what the nearest of the scene shows, the earlier of two."""
    rows = [row for row in FilmDataset(shots, "shots").read().to_pylist() if row["movie_id"] == video]
    there = [number for number in numbers if rows[number]["keyframes"] and (video, number) not in BROKEN]
    nearest = [min(there, key=lambda other: abs(numbers.index(other) - place)) for place in range(len(numbers))]
    return [Image.open(io.BytesIO(rows[number]["keyframes"][0]["bytes"])).convert("RGB") for number in nearest]


def by_hand(model: Path, images: list[Image.Image], vector: str = "pooler_output") -> np.ndarray:
    encoder, processor = M2SSceneModel.from_pretrained(model).eval(), M2SSceneProcessor.from_pretrained(model)
    with torch.no_grad():
        return encoder(**processor([images]))[vector][0].numpy()


@pytest.fixture
def folder(tmp_path) -> Path:
    make_shots(tmp_path / "shots", LENGTHS)
    write_scenes(tmp_path / "scenes.csv")
    return tmp_path


def test_scenes_of_shots_are_those_put_together_by_hand(folder, tiny_folder, capsys):
    run(folder, "out", "--shots", folder / "shots", model=tiny_folder)
    found = embeddings(folder / "out")
    videos = {scene_id: video for scene_id, video, *_ in SCENES}
    assert found.keys() == SHOTS_READ.keys()
    for scene_id, numbers in SHOTS_READ.items():
        images = keyframes(folder / "shots", videos[scene_id], numbers)
        np.testing.assert_allclose(
            found[scene_id], by_hand(tiny_folder, images), rtol=1e-4, atol=1e-4, err_msg=scene_id
        )

    dataset = FilmDataset(folder / "out", "scene_embeddings")
    rows = {row["scene_id"]: row for row in dataset.read().to_pylist()}
    place = ("movie_id", "first_shot", "num_shots", "start_seconds", "end_seconds")
    assert [rows["seconds"][name] for name in place] == ["tt04", 3, 5, 3.0, 8.0]
    assert [rows["shots"][name] for name in place] == ["tt04", 20, 11, 20.0, 31.0]
    assert dataset.check() == []
    unreadable = {"whole": 3, "seconds": 1, "cuts": 1, "shots": 2, "few": 1}
    assert dataset.record["notes"] == {name: f"{count} keyframes do not decode" for name, count in unreadable.items()}
    assert dataset.record["missing"] == {} and dataset.record["inputs"] == {"shots": {"keyframes_per_shot": 1}}
    assert "6 scenes of 3 videos" in capsys.readouterr().out


def test_a_film_in_a_subfolder_goes_by_its_last_part(folder, tiny_folder):
    make_shots(folder / "below", {"a/01": 1, "a/03": 17, "b/03": 17})
    write_scenes(folder / "scenes.csv", [("short", "01", "", "", "", ""), ("whole", "a/03", "", "", "", "")])
    run(folder, "out", "--shots", folder / "below", model=tiny_folder)
    images = keyframes(folder / "below", "a/01", [0])
    np.testing.assert_allclose(embeddings(folder / "out")["short"], by_hand(tiny_folder, images), rtol=1e-4, atol=1e-4)
    assert FilmDataset(folder / "out", "scene_embeddings").record["missing"] == {}
    found = SceneKeyframes([folder / "below"], [folder / "out"])
    assert len(found.scene("short")) == 1 and not found.left_out
    write_scenes(folder / "scenes.csv", [("twice", "03", "", "", "", "")])
    with pytest.raises(SystemExit, match="has several films of the name 03: a/03, b/03"):
        run(folder, "out", "--shots", folder / "below", model=tiny_folder)


@pytest.mark.parametrize("read", ["windows", "all"])
def test_all_shots_of_a_scene_are_read_in_windows_or_at_once(folder, tiny_folder, read):
    run(folder, "out", "--shots", folder / "shots", "--read", read, "--shots_per_scene", "4", model=tiny_folder)
    found = embeddings(folder / "out")["shots"]
    windows = {"windows": [range(20, 24), range(24, 28), range(28, 31)], "all": [range(20, 31)]}[read]
    vectors = [by_hand(tiny_folder, keyframes(folder / "shots", "tt04", list(window))) for window in windows]
    expected = np.average(vectors, axis=0, weights=[len(window) for window in windows])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_missing_is_named_and_nothing_else_is_lost(folder, tiny_folder, capsys):
    more = [
        ("late", "tt04", "34.5", "99", "", ""),
        ("past", "tt04", "35", "36", "", ""),
        ("past shots", "tt03", "", "", "17", "2"),
        ("last shots", "tt03", "", "", "15", "9"),
        ("dark", "tt02", "", "", "5", "1"),
        ("absent", "tt09", "", "", "", ""),
    ]
    write_scenes(folder / "scenes.csv", [*SCENES, *more])
    run(folder, "out", "--shots", folder / "shots", model=tiny_folder)
    record = FilmDataset(folder / "out", "scene_embeddings").record
    assert record["missing"] == {
        "absent": f"{folder}/shots has no shots of tt09",
        "dark": "no keyframe of shots 5 to 5 of tt02 decodes",
        "past": "35 to 36 s are asked for, tt04 ends at 35.00 s",
        "past shots": "shots 17 to 18 are asked for, tt03 has 17",
    }
    assert record["notes"]["late"] == "34.5 to 99 s are asked for, tt04 ends at 35.00 s"
    assert record["notes"]["last shots"].startswith("shots 15 to 23 are asked for, tt03 has 17")
    assert embeddings(folder / "out").keys() == SHOTS_READ.keys() | {"late", "last shots"}
    assert "4 scenes cannot be read, such as absent" in capsys.readouterr().out


def test_nothing_to_read_is_an_error(folder, tiny_folder):
    write_scenes(folder / "scenes.csv", [("a", "tt09", "", "", "", ""), ("b", "tt08", "", "", "", "")])
    with pytest.raises(SystemExit, match=r"none of 2 scenes can be read: .*/shots has no shots of tt08"):
        run(folder, "out", "--shots", folder / "shots", model=tiny_folder)
    write_scenes(folder / "scenes.csv", [("a", "tt01", "", "", "5", "1")])
    with pytest.raises(SystemExit, match="none of 1 scenes can be read: shots 5 to 5 are asked for, tt01 has 1"):
        run(folder, "out", "--shots", folder / "shots", model=tiny_folder)


def moment(path: Path, seconds: float) -> Image.Image:
    """The frame that is shown at a time, found by decoding all of them."""
    with av.open(str(path)) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return Image.fromarray(
        max((pair for pair in shown if pair[0] - shown[0][0] <= seconds), key=lambda pair: pair[0])[1]
    )


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "clips"
    (folder / "below").mkdir(parents=True)
    make_video(folder / "even.mp4", [30, 18], size=(64, 48))
    make_video(folder / "below/uneven.mkv", [30], size=(64, 48), times=[50 * n + 20 * (n % 3) for n in range(30)])
    make_video(folder / "short.mp4", [4], size=(64, 48))
    make_video(folder / "long.mp4", [40], size=(64, 48))
    trim(folder / "long.mp4", 0.7, folder / "hidden.mp4")
    (folder / "broken.mp4").write_bytes(b"no film")
    return folder


def test_clips_are_read_at_moments_evenly_spaced_in_time(tmp_path, clips, tiny_folder):
    scenes = [
        ("even", "even", "", "", "", ""),
        ("part", "even", "0.5", "1.25", "", ""),
        ("long part", "even", "1.0", "9.0", "", ""),
        ("past", "even", "3", "4", "", ""),
        ("uneven", "uneven", "", "", "", ""),
        ("hidden", "hidden", "0.1", "0.9", "", ""),
        ("short", "short", "", "", "", ""),
        ("broken", "broken", "", "", "", ""),
        ("absent", "absent", "0", "1", "", ""),
    ]
    write_scenes(tmp_path / "scenes.csv", scenes)
    run(tmp_path, "out", "--videos", clips, model=tiny_folder)
    found, record = embeddings(tmp_path / "out"), FilmDataset(tmp_path / "out", "scene_embeddings").record
    extents = {
        "even": ("even.mp4", 0, 2),
        "part": ("even.mp4", 0.5, 1.25),
        "long part": ("even.mp4", 1, 2),
        "uneven": ("below/uneven.mkv", 0, frame_times(clips / "below/uneven.mkv")[0][-1] * 30 / 29),
        "hidden": ("hidden.mp4", 0.1, 0.9),
    }
    assert found.keys() == {*extents, "short"}
    for scene_id, (name, start, end) in extents.items():
        times = [start + (end - start) * (2 * place + 1) / 18 for place in range(9)]
        expected = by_hand(tiny_folder, [moment(clips / name, seconds) for seconds in times])
        np.testing.assert_allclose(found[scene_id], expected, rtol=1e-3, atol=2e-3, err_msg=scene_id)
    four = [moment(clips / "short.mp4", (place + 0.5) / 24) for place in range(4)]
    np.testing.assert_allclose(found["short"], by_hand(tiny_folder, four), rtol=1e-3, atol=2e-3)

    assert record["missing"]["past"] == "3 to 4 s are asked for, even ends at 2.00 s"
    assert record["missing"]["absent"] == f"{clips} has no video of the name absent"
    assert record["missing"]["broken"].startswith(f"{clips}/broken.mp4: not a readable video")
    assert record["notes"] == {"long part": "1 to 9 s are asked for, even ends at 2.00 s"}


def test_moments_before_the_first_frame_read_it_once(clips):
    videos = VideoFiles(clips, CLIPImageProcessorPil(), Reading("evenly", 4))
    scene = LabeledScene("late", "film", video="even", split="test", seconds=(0.0, 4.0))
    places, *_ = videos._moments(scene, np.array([1.0, 2.0, 3.0, 4.0]))  # moments at 0.5, 1.5, 2.5 and 3.5 s
    assert places == [0, 1, 2]


def test_a_replaced_clip_is_done_again_and_one_that_is_gone_stays(tmp_path, clips, tiny_folder, capsys):
    write_scenes(tmp_path / "scenes.csv", [(name, name, "", "", "", "") for name in ("even", "uneven", "short")])
    run(tmp_path, "out", "--videos", clips, model=tiny_folder)
    before = embeddings(tmp_path / "out")
    make_video(clips / "even.mp4", [20, 28], size=(64, 48), seed=5)
    (clips / "short.mp4").unlink()
    capsys.readouterr()
    run(tmp_path, "out", "--videos", clips, model=tiny_folder)
    out, after = capsys.readouterr().out, embeddings(tmp_path / "out")
    assert [np.array_equal(before[name], after[name]) for name in ("even", "uneven", "short")] == [False, True, True]
    assert "(1 videos now" in out and "1 videos are gone since they were embedded, and stay as they are: short" in out


def test_pictures_stand_for_shots(tmp_path, tiny_folder):
    random = np.random.default_rng(0)
    for name in ("park/1.png", "park/2.png", "park/10.png", "beach.jpg", "street/a.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures/street/b.png").write_bytes(b"no picture")
    scenes = [
        ("park", "park"),
        ("beach", "beach.jpg"),
        ("street", "street"),
        ("b", "street/b.png"),
        ("none", "none.jpg"),
    ]
    write_scenes(tmp_path / "scenes.csv", [(*each, "", "", "", "") for each in scenes])
    run(tmp_path, "out", "--pictures", tmp_path / "pictures", model=tiny_folder)
    found, record = embeddings(tmp_path / "out"), FilmDataset(tmp_path / "out", "scene_embeddings").record
    read = {"park": ["park/1.png", "park/10.png", "park/2.png"], "beach": ["beach.jpg"], "street": ["street/a.png"]}
    assert found.keys() == read.keys()
    for scene_id, names in read.items():
        expected = by_hand(tiny_folder, [Image.open(tmp_path / "pictures" / name) for name in names])
        np.testing.assert_allclose(found[scene_id], expected, rtol=1e-4, atol=1e-4)
    assert "street/b.png does not decode" in record["notes"]["street"]
    assert record["missing"].keys() == {"b", "none"}

    write_scenes(tmp_path / "scenes.csv", [("x", "../shots", "", "", "", "")])
    with pytest.raises(SystemExit, match=r"scene x: .* is not below"):
        run(tmp_path, "other", "--pictures", tmp_path / "pictures", model=tiny_folder)


def test_a_scene_of_several_pictures_is_read_as_so_many_shots(tmp_path):
    for shade in (10, 20, 30):
        Image.new("RGB", (40, 40), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    names = ("30.png", "10.png", "absent.png")
    scenes = [LabeledScene("a", "x", names[0], "test", pictures=names), LabeledScene("b", "x", "20.png", "test")]
    whole, single = Pictures(tmp_path, processor, Reading()).read("x", scenes)
    assert [int(window_FCYX[0, 0, 0, 0]) for window_FCYX in whole.windows] == [30]
    assert whole.windows[0][:, 0, 4, 4].tolist() == [30, 10] and single.windows[0][:, 0, 4, 4].tolist() == [20]
    assert whole.extent.num_shots == 3 and whole.note == f"{tmp_path}/absent.png is not there"
    (windows,) = [read.windows for read in Pictures(tmp_path, processor, Reading("windows", 1)).read("x", scenes[:1])]
    assert [window_FCYX.shape for window_FCYX in windows] == [(1, 3, 8, 8)] * 2


def test_scenes_that_their_media_cannot_hold_are_refused(folder, clips, tiny_folder):
    with pytest.raises(SystemExit, match="scene few is not given in seconds: give --shots instead of --videos"):
        run(folder, "out", "--videos", clips, model=tiny_folder)
    with pytest.raises(SystemExit, match="is a part of a video: give --shots or --videos"):
        run(folder, "out", "--pictures", clips, model=tiny_folder)
    with pytest.raises(SystemExit, match="read=all needs shots"):
        run(folder, "out", "--videos", clips, "--read", "all", model=tiny_folder)
    shutil.copy(clips / "even.mp4", clips / "below/even.mp4")
    with pytest.raises(SystemExit, match="have the same name"):
        run(folder, "out", "--videos", clips, model=tiny_folder)


def test_two_models_and_two_readings_do_not_mix_in_a_folder(folder, tiny_folder):
    run(folder, "out", "--shots", folder / "shots", model=tiny_folder)
    before = content(folder / "out")
    with pytest.raises(SystemExit, match=r"model is '.*' there, 'm2s-clip-tiny' now; revision is"):
        run(folder, "out", "--shots", folder / "shots")
    with pytest.raises(SystemExit, match="read is 'evenly' there, 'all' now"):
        run(folder, "out", "--shots", folder / "shots", "--read", "all", model=tiny_folder)
    with pytest.raises(SystemExit, match="average_neighbors is None there, 1 now"):
        run(folder, "out", "--shots", folder / "shots", "--average_neighbors", "1", model=tiny_folder)
    assert content(folder / "out") == before


def test_bytes_depend_neither_on_workers_nor_on_what_was_done_before(folder, tiny_folder):
    flags = ("--shots", folder / "shots")
    run(folder, "whole", *flags, model=tiny_folder)
    write_scenes(folder / "scenes.csv", SCENES[1:4])
    run(folder, "grown", *flags, model=tiny_folder)
    write_scenes(folder / "scenes.csv", list(reversed(SCENES)))
    run(folder, "grown", *flags, "--num_workers", "2", model=tiny_folder)
    assert content(folder / "grown") == content(folder / "whole")


@pytest.fixture(scope="module")
def forked_runs(tmp_path_factory):
    runs = ForkedRuns.start("eval.embed_scenes", "eval.embeddings.scenes", tmp_path_factory.mktemp("forked"))
    yield runs
    runs.stop()


def test_killed_runs_go_on_to_the_same_bytes(folder, tiny_folder, forked_runs):
    words = ["--scenes", folder / "scenes.csv", "--shots", folder / "shots", "--model", tiny_folder]
    words += ["--num_workers", "0", "--output"]
    assert forked_runs.run([*words, folder / "whole"]).status == 0
    for ranks, *die_at in (
        (1, "modeling_m2s.storage_m2s:FilmDataset.write_film", 2),
        (1, "modeling_m2s.storage_m2s:os.replace", 5),  # while films are packed
        (2, "modeling_m2s.storage_m2s:FilmDataset.write_film", 1),
    ):
        output = folder / f"killed {ranks} {die_at[0]}"
        assert forked_runs.run([*words, output], die_at, ranks).status == -9
        assert not FilmDataset(output, "scene_embeddings").record["complete"]
        ended = forked_runs.run([*words, output], ranks=ranks)
        assert (ended.status, "6 scenes of 3 videos" in ended.out) == (0, True), ended.err
        assert content(output) == content(folder / "whole")


def test_whitening_sees_the_frames_of_training_scenes_alone(folder, tiny_folder):
    splits = dict.fromkeys(("wide", "few"), "train")
    scenes = [*SCENES, ("wide", "tt02", "", "", "6", "8")]
    write_scenes(folder / "scenes.csv", scenes, splits)
    flags = ("--shots", folder / "shots", "--encoder", "frames", "--whiten")
    run(folder, "out", *flags, model=tiny_folder)
    encoder = load_scene_encoder("frames", str(tiny_folder))
    videos = {scene_id: video for scene_id, video, *_ in scenes}
    shots_read = {**SHOTS_READ, "wide": list(range(6, 14))}
    frames = {
        scene_id: encoder.encode([[image] for image in keyframes(folder / "shots", videos[scene_id], numbers)])
        for scene_id, numbers in shots_read.items()
    }
    moments = Moments(16)
    for scene_id in ("wide", "few"):
        moments.add(frames[scene_id])
    whitening, found = Whitening.fit(moments, shrinkage=SHRINKAGE), embeddings(folder / "out")
    for scene_id, frames_FD in frames.items():
        expected = whitening.apply(frames_FD).mean(0)
        np.testing.assert_allclose(found[scene_id], expected, rtol=1e-2, atol=1e-2, err_msg=scene_id)

    write_scenes(folder / "scenes.csv", [scene for scene in scenes if scene[0] in splits], splits)
    run(folder, "alone", *flags, model=tiny_folder)
    assert all(np.array_equal(vector_D, found[name]) for name, vector_D in embeddings(folder / "alone").items())
    before = content(folder / "out")
    write_scenes(folder / "scenes.csv", scenes, {"one": "train"})
    with pytest.raises(SystemExit, match=r"training_scenes is .* there"):
        run(folder, "out", *flags, model=tiny_folder)
    assert content(folder / "out") == before
    write_scenes(folder / "scenes.csv")
    with pytest.raises(SystemExit, match="whiten needs training scenes"):
        run(folder, "none", *flags, model=tiny_folder)


def test_neighbors_are_the_scenes_before_and_after_in_the_same_video(folder, tiny_folder):
    flags = ("--shots", folder / "shots")
    run(folder, "plain", *flags, model=tiny_folder)
    run(folder, "averaged", *flags, "--average_neighbors", "1", model=tiny_folder)
    plain, averaged = (embeddings(folder / name) for name in ("plain", "averaged"))
    order = ["whole", "seconds", "cuts", "shots"]
    for place, scene_id in enumerate(order):
        near = [plain[name] for name in order[max(0, place - 1) : place + 2]]
        np.testing.assert_allclose(averaged[scene_id], np.mean(near, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(averaged["one"], plain["one"])
    assert average_neighbors(np.arange(5.0)[:, None], 2)[:, 0].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_vectors_made_elsewhere_become_embeddings(folder, capsys):
    vectors_ND = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    np.save(folder / "slowfast.npy", vectors_ND)
    (folder / "slowfast.txt").write_text("few\nother\none\nshots\nwhole\n")
    run(folder, "out", "--features", folder / "slowfast.npy")
    found, dataset = embeddings(folder / "out"), FilmDataset(folder / "out", "scene_embeddings")
    for place, scene_id in enumerate(("few", None, "one", "shots", "whole")):
        if scene_id:
            np.testing.assert_array_equal(found[scene_id], vectors_ND[place])
    assert len(found) == 4 and dataset.record["missing"].keys() == {"seconds", "cuts"}
    assert dataset.record["settings"]["model"] == "slowfast.npy" and dataset.check() == []
    assert "2 scenes cannot be read" in capsys.readouterr().out
    vectors_ND[0, 3] = np.nan
    np.save(folder / "slowfast.npy", vectors_ND)
    with pytest.raises(SystemExit, match="revision is"):
        run(folder, "out", "--features", folder / "slowfast.npy")
    with pytest.raises(SystemExit, match="scene few: its embedding is infinite or not a number"):
        run(folder, "again", "--features", folder / "slowfast.npy")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give one of --shots, --videos, --pictures and --features, not 0"),
        (("--shots", "a", "--videos", "b"), "not 2 of them"),
        (("--shots", "a", "--whiten"), "whiten needs vectors of single frames"),
        (("--features", "a.npy", "--encoder", "frames"), "--encoder frames is for media: --features has the vectors"),
        (("--features", "a.npy", "--model", "m"), "--model m is for media"),
        (("--features", "a.npy", "--shots_per_scene", "3"), "--shots-per-scene 3 is for media"),
        (("--features", "a.npy", "--dtype", "bfloat16"), "--dtype bfloat16 is for media"),
        (("--features", "a.npy", "--num_workers", "2"), "--num-workers 2 is for media"),
        (("--shots", "a", "--average_neighbors", "-1"), "average_neighbors=-1 must be at least 0"),
        (("--shots", "shots", "--read", "some"), "invalid choice: 'some'"),
        (("--shots", "absent"), "absent: no finished shots dataset"),
    ],
)
def test_flags_that_do_not_fit_are_refused(folder, monkeypatch, flags, message):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match=message):
        run(folder, "out", *flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scene_id,movie_id,split\na,b,test\n", "video"),
        (
            "scene_id,movie_id,video,split,start_seconds\na,b,c,test,1\n",
            r"line 2: start_seconds and end_seconds are \['1', ''\]",
        ),
        (f"{PART_COLUMNS}\na,b,c,test,1,2,,\nd,b,c,test,2,2,,\n", r"scenes\.csv, line 3: 2 to 2 s is no part"),
        (f"{PART_COLUMNS}\na,b,c,test,-1,2,,\n", "line 2: -1 to 2 s is no part"),
        (f"{PART_COLUMNS}\na,b,c,test,0,nan,,\n", "line 2: 0 to nan s is no part"),
        (f"{PART_COLUMNS}\na,b,c,test,,,-1,2\n", "line 2: first_shot -1 must be at least 0"),
        (f"{PART_COLUMNS}\na,b,c,test,,,0,0\n", "line 2: .* num_shots 0 at least 1"),
        ("scene_id,movie_id,video,split\na,b,c,dev\n", r"scenes\.csv, line 2: split 'dev' is none of"),
        ("scene_id,movie_id,video,split\na,b,c,test\na,b,d,test\n", "scene a is there twice"),
        ("scene_id,movie_id,video,split\n", "holds no scenes"),
    ],
)
def test_scene_files_that_cannot_be_used_are_refused(tmp_path, text, message):
    (tmp_path / "scenes.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scenes(tmp_path / "scenes.csv")


def test_splits_of_scene_files_may_be_short(tmp_path):
    (tmp_path / "scenes.csv").write_text(f"{PART_COLUMNS}\na,b,c,Val,1,2.5,,\nd,b,c,train,,,3,1\n")
    first, second = read_scenes(tmp_path / "scenes.csv")
    assert (first.split, first.seconds, first.shots) == ("validation", (1.0, 2.5), None)
    assert (second.split, second.seconds, second.shots) == ("train", None, (3, 1))
