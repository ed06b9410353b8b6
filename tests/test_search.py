"""`m2s search`: clips and stills as queries, which films are searched, near-duplicates, clips of hits, JSON."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from make_videos import make_audio, make_video
from PIL import Image

from m2s.main import main
from m2s.shared import one_line, quote
from modeling_m2s.pipeline_m2s import SceneEmbeddingPipeline, open_image
from modeling_m2s.pretrained_m2s import load_encoder
from modeling_m2s.scene_space_m2s import SPACES, SceneSpace
from modeling_m2s.search_m2s import Scene, SceneIndex, nearest
from modeling_m2s.shots_m2s import ShotSettings, detect_shots
from modeling_m2s.video_m2s import VideoError

NASTY = 'it\'s\n"a" film\t$HOME'
SHOT = 17 / 24  # seconds of a shot


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A film of 13 shots and a copy of it, in another folder; a film of two shots with an awkward name."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "copies").mkdir()
    make_video(folder / "alpha.mp4", [17] * 13, seed=1)
    make_video(folder / "copies/beta.mkv", [17] * 13, seed=1, keyframe_interval=7)
    make_video(folder / f"{NASTY}.mp4", [17] * 2, seed=3)
    return folder


@pytest.fixture(scope="module")
def index(films, tiny_folder, tmp_path_factory) -> Path:
    """An index of them, two shots a scene."""
    output = tmp_path_factory.mktemp("index") / "index"
    flags = ["--model", str(tiny_folder), "--output", str(output), "--workers", "1", "--shots-per-scene", "2"]
    assert main(["embed", str(films), *flags, "--scene-vector", "joint"]) == 0
    return output


@pytest.fixture(scope="module")
def embed(tiny_folder) -> SceneEmbeddingPipeline:
    encoder, image_processor, _ = load_encoder(str(tiny_folder))
    return SceneEmbeddingPipeline(encoder, image_processor=image_processor, scene_vector="joint")


def search(capsys, index: Path, *arguments: object, status: int = 0) -> dict:
    """The JSON document of a search in the raw space; its standard output holds nothing else."""
    capsys.readouterr()
    assert main(["search", str(index), "--json", "--space", "raw", *map(str, arguments)]) == status
    return json.loads(capsys.readouterr().out)


def refusal(capsys, index: Path, *arguments: object) -> str:
    """The one line with which a search is refused."""
    capsys.readouterr()
    assert main(["search", str(index), *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    (line,) = err.strip().splitlines()
    assert out == ""
    return line


def expected(index: Path, vectors: np.ndarray, wanted=lambda scene: True) -> list[tuple[str, int, float]]:
    """Film, first shot and distance of scenes, nearest first, by a loop."""
    found = []
    for scene in load_dataset(str(index / "scene_embeddings"), split="train").to_list():
        if wanted(scene):
            distance = min(float(np.linalg.norm(np.subtract(scene["embedding"], vector))) for vector in vectors)
            found.append((scene["movie_id"], scene["first_shot"], distance))
    return sorted(found, key=lambda each: each[2])


def places(document: dict) -> list[tuple[str, int]]:
    return [(hit["movie_id"], hit["first_shot"]) for hit in document["hits"]]


def test_a_clip_is_cut_and_read_as_the_films_are(index, films, embed, tmp_path, capsys):
    clip = make_video(tmp_path / "clip.mp4", [20, 30, 25, 18, 22], seed=7)
    vectors = [scene["embedding"] for scene in embed(str(clip), shots_per_scene=2)]
    assert len(vectors) == 3
    document = search(capsys, index, "--clip", clip, "--top", 4, "--keep-duplicates")
    wanted = expected(index, vectors)[:4]
    assert [hit["distance"] for hit in document["hits"]] == pytest.approx(
        [distance for *_, distance in wanted], abs=1e-3
    )
    assert "5 shots, 3 scenes" in document["query"]


@pytest.mark.parametrize(
    "flags, read",
    [
        (["--scene-vector", "mean"], [[0, 1], [2, 3], [4]]),
        (["--scenes", "story", "--scene-vector", "mean"], [[0, 1, 2, 3, 4]]),
        (["--scenes", "story", "--scene-vector", "joint"], [[1, 3]]),  # evenly spaced, as many as --shots-per-scene
    ],
)
def test_queries_are_read_as_the_indexs_scenes(films, tiny_folder, embed, tmp_path, capsys, flags, read):
    output = tmp_path / "index"
    command = ["embed", str(films / "alpha.mp4"), "--model", str(tiny_folder), "--output", str(output)]
    assert main([*command, "--workers", "1", "--shots-per-scene", "2", *flags]) == 0
    clip = make_video(tmp_path / "clip.mp4", [20, 30, 25, 18, 22], seed=7)
    images = [open_image(shot.keyframes[0]) for shot in detect_shots(clip).shots]
    scenes = SceneIndex(output)
    for query, chosen in ((["--clip", clip], read), (["--image", "IMAGES"], [[2, 4]])):
        if query[0] == "--image":
            images[2].save(tmp_path / "2.png")
            images[4].save(tmp_path / "4.png")
            query = ["--image", tmp_path / "2.png", "--image", tmp_path / "4.png"]
        if "mean" in flags:
            singles = embed.embed_images(images)
            vectors = [singles[shots].mean(0) for shots in chosen]
        else:
            pixels = embed.scene_processor([[images[shot] for shot in shots] for shots in chosen])["pixel_values"]
            with torch.inference_mode():
                vectors = list(embed.model(pixel_values=pixels).pooler_output.numpy())
        points = [scenes.space.apply(vector) for vector in vectors]
        distances = [min(float(np.linalg.norm(mine - point)) for point in points) for mine in scenes.points]
        document = search(capsys, output, *query, "--space", "whitened", "--top", 50, "--keep-duplicates")
        assert document["space"] == "whitened" and len(document["hits"]) == len(scenes.scenes)
        assert [hit["distance"] for hit in document["hits"]] == pytest.approx(sorted(distances), abs=2e-3)


def test_a_stretch_of_a_film_finds_the_scene_that_it_shows(index, films, capsys):
    document = search(capsys, index, "--clip", films / "alpha.mp4", "--from", 4 * SHOT, "--to", 6 * SHOT)
    assert document["hits"][0]["first_shot"] == 4 and document["hits"][0]["distance"] < 0.01
    assert "2 shots, 1 scene" in document["query"]


@pytest.mark.parametrize("start, end", [(0.5, 3.3), (2.0, 2.04), (8.0, float("inf"))])
def test_shots_of_a_stretch_are_those_of_its_frames(films, tmp_path, start, end):
    path = films / "alpha.mp4"
    whole, part = detect_shots(path), detect_shots(path, span=(start, end))
    shown = [number for number in range(221) if (number + 1) / 24 > start and number / 24 < end]
    assert part.num_frames == len(shown)
    edges = [shown[0], *(shot.start_frame for shot in whole.shots if shown[0] < shot.start_frame <= shown[-1])]
    # A cut so near to an edge that a shot would be too short is none.
    edges = [
        edge for number, edge in enumerate(edges) if not number or (edge - edges[0] >= 15 and shown[-1] > edge + 2)
    ]
    assert [shot.start_frame + shown[0] for shot in part.shots] == edges
    assert part.shots[0].start_seconds == pytest.approx(shown[0] / 24)
    assert part.shots[-1].end_seconds == pytest.approx((shown[-1] + 1) / 24)
    assert all(shot.start_frame <= shot.keyframe_frames[0] < shot.end_frame for shot in part.shots)


def test_a_clip_of_one_frame_is_a_scene_of_one_picture(index, embed, tmp_path, capsys):
    clip = make_video(tmp_path / "one.mp4", [1], seed=9)
    (shot,) = detect_shots(clip).shots
    vector = embed.embed_images([open_image(shot.keyframes[0])])
    document = search(capsys, index, "--clip", clip, "--top", 1)
    assert document["hits"][0]["distance"] == pytest.approx(expected(index, vector)[0][2], abs=1e-3)


def test_several_stills_are_one_scene(index, films, embed, tmp_path, capsys):
    shots = detect_shots(films / "alpha.mp4", ShotSettings()).shots
    flags = []
    for number in (6, 7):
        open_image(shots[number].keyframes[0]).save(tmp_path / f"{number}.png")
        flags += ["--image", tmp_path / f"{number}.png"]
    document = search(capsys, index, *flags)
    assert document["hits"][0]["first_shot"] == 6 and document["hits"][0]["distance"] < 0.01
    apart = embed.embed_images([open_image(shots[number].keyframes[0]) for number in (6, 7)]).mean(0)
    assert expected(index, [apart])[0][2] > 2 * document["hits"][0]["distance"]


def test_an_index_that_cannot_be_written_is_searched(index, tmp_path, capsys):
    copy = shutil.copytree(index, tmp_path / "index")
    shutil.rmtree(copy / "search.png", ignore_errors=True)
    (copy / "search.png").unlink(missing_ok=True)
    (copy / "search.png").mkdir()  # in the way of the picture
    capsys.readouterr()
    command = ["search", str(copy), "--film", "alpha", "--at", "0"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "distance" in out and "picture:" not in out
    assert "no picture (" in err.splitlines()[-1] and "; --picture FILE draws it elsewhere" in err
    assert main([*command, "--picture", str(tmp_path / "found.png")]) == 0 and (tmp_path / "found.png").exists()
    assert main([*command, "--picture", str(copy / "search.png")]) == 1


@pytest.mark.parametrize(
    "flags, wanted",
    [
        (["--film-id", "copies/beta"], {"copies/beta"}),
        (["--film-id", "alpha", "--film-id", NASTY], {"alpha", NASTY}),
        (["--under", "FILMS/copies"], {"copies/beta"}),
        (["--under", "FILMS/copies/../../films0/"], {"alpha", "copies/beta", NASTY}),
        (["--under", "FILMS", "--film-id", "alpha"], {"alpha"}),
        (["--film-id", "copies/beta", "--across"], {"copies/beta"}),
    ],
)
def test_only_the_films_asked_for_are_searched(index, films, capsys, flags, wanted):
    flags = [flag.replace("FILMS", str(films)).replace("films0", films.name) for flag in flags]
    document = search(capsys, index, "--film", "alpha", "--at", "0", "--top", 50, "--keep-duplicates", *flags)
    scenes = SceneIndex(index)
    query = scenes.scene_at("alpha", 0)
    found = expected(
        index,
        [scenes.vectors[query.row]],
        lambda scene: scene["movie_id"] in wanted and (scene["movie_id"], scene["first_shot"]) != ("alpha", 0),
    )
    assert len(places(document)) == len(found) > 0 and set(places(document)) == {place[:2] for place in found}
    assert [hit["distance"] for hit in document["hits"]] == pytest.approx([each[2] for each in found], abs=1e-3)


def test_the_copy_of_a_hit_is_folded_and_counted(index, capsys):
    command = ["--film", NASTY, "--at", "0", "--top", 50]
    everything, folded = search(capsys, index, *command, "--keep-duplicates"), search(capsys, index, *command)
    assert len(everything["hits"]) == 14 and everything["near_duplicates"] == 0
    # The last scene is of one shot.
    assert sorted(first for _, first in places(folded)) == [0, 2, 4, 6, 8, 10, 12]
    assert folded["near_duplicates"] == 7 and all(hit["near_duplicates"] == 1 for hit in folded["hits"])
    top = search(capsys, index, *command[:-1], 2)
    assert top["hits"] == folded["hits"][:2] and top["near_duplicates"] == 2
    capsys.readouterr()
    assert main(["search", str(index), *map(str, command), "--picture", str(index / "found.png")]) == 0
    assert "left out: 7; --keep-duplicates" in capsys.readouterr().out


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("top", [1, 3, 40])
def test_near_duplicates_are_counted_as_in_a_loop_in_every_space(space, top):
    generator = np.random.default_rng(0)
    vectors = np.repeat(generator.normal(size=(13, 7)) * np.geomspace(1, 1e-2, 7), 3, axis=0) + 5
    vectors = (vectors + generator.normal(size=vectors.shape) * 0.02).astype(np.float32)
    scenes = [Scene(row, f"film {row}", 0, 1, 0.0, 1.0) for row in range(39)]
    space = SceneSpace.fit(vectors, space)
    points = space.apply(vectors)
    distances = np.linalg.norm(points - points[0], axis=1)
    pairs = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    kept: dict[int, int] = {}
    for row in np.argsort(distances, kind="stable"):
        near = [other for other in kept if pairs[row, other] <= 0.3 * np.sqrt((pairs**2).mean())]
        if near:
            kept[near[0]] += 1
        elif len(kept) < top:
            kept[row] = 0
    found = nearest(scenes, vectors, distances, top, fold=True, one_space=space.name == "raw")
    assert {scene.row: scene.num_folded for scene in found} == kept


def test_each_hit_is_a_moment_and_a_line_that_opens_the_player_there(index, films, tmp_path, capsys):
    document = search(capsys, index, "--film", "alpha", "--at", "0", "--top", 50, "--film-id", NASTY)
    (hit,) = document["hits"]
    assert (hit["video"], hit["start_seconds"], hit["num_shots"]) == (str(films / f"{NASTY}.mp4"), 0, 2)
    assert hit["end_seconds"] == pytest.approx(2 * SHOT)
    player = tmp_path / "mpv"
    player.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    player.chmod(0o755)
    assert "\n" not in hit["player"]
    shown = subprocess.run(
        ["bash", "-c", hit["player"]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True
    )
    assert shown.stdout.decode() == f"--start=0.000|{hit['video']}|"
    capsys.readouterr()
    command = ["search", str(index), "--film", "alpha", "--at", "0", "--film-id", NASTY]
    assert main([*command, "--picture", str(tmp_path / "found.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(r"""    1   it's\n"a" film\t$HOME  00:00:00.0-00:00:01.5  shots 0-1   distance""")
    assert lines[2].strip() == hit["player"] and lines[3].startswith("picture: ") and len(lines) == 4
    assert Image.open(tmp_path / "found.png")


def test_the_player_opens_all_files_of_a_dvds_title(tiny_folder, tmp_path, capsys):
    content = make_video(tmp_path / "whole.mpg", [17] * 4, codec="mpeg2video").read_bytes()
    parts = [tmp_path / "a disc" / f"VTS_01_{number}.VOB" for number in (1, 2)]
    parts[0].parent.mkdir()
    for part, half in zip(parts, (content[: len(content) // 2], content[len(content) // 2 :]), strict=True):
        part.write_bytes(half)
    flags = ["--model", str(tiny_folder), "--output", str(tmp_path / "index"), "--workers", "1"]
    assert main(["embed", *map(str, parts), *flags, "--shots-per-scene", "3"]) == 0
    (hit,) = search(capsys, tmp_path / "index", "--film", "VTS", "--at", "0")["hits"]
    assert hit["start_seconds"] == pytest.approx(3 * SHOT)
    assert shlex.split(hit["player"]) == ["mpv", "--merge-files", "--start=2.125", *map(str, parts)]


@pytest.mark.parametrize("text", ["plain", "it's", "two\nlines", "a\\b'c\td", "é\u2028ü", "$HOME `x`\r", "-x", "~"])
def test_quoted_words_are_one_line_and_what_the_shell_reads(text):
    assert len(quote(text).splitlines()) == 1 == len(one_line(text).splitlines())
    read = subprocess.run(["bash", "-c", f"printf %s {quote(text)}" if text[0] != "-" else f"printf -- {quote(text)}"])
    assert read.returncode == 0
    shown = subprocess.run(["bash", "-c", f"cat <<< {quote(text)}"], capture_output=True, check=True).stdout.decode()
    assert shown == text + "\n"
    if text.isprintable():
        assert quote(text) == shlex.quote(text) and one_line(text) == text


def test_hits_are_written_as_clips(index, films, tmp_path, capsys):
    command = ["--film", "alpha", "--at", "0", "--top", 3, "--keep-duplicates", "--cut", tmp_path / "clips"]
    document = search(capsys, index, *command, "--padding", 0.25)
    names = {hit["clip"]["path"] for hit in document["hits"]}
    assert len(names) == 3 and {Path(name) for name in names} == set((tmp_path / "clips").iterdir())
    for hit in document["hits"]:
        clip = hit["clip"]
        assert max(0.0, hit["start_seconds"] - 0.25) - 0.55 < clip["start_seconds"] <= hit["start_seconds"]
        assert clip["end_seconds"] == pytest.approx(min(hit["end_seconds"] + 0.25, 13 * SHOT), abs=0.01)
        length = detect_shots(clip["path"]).duration_seconds
        assert length == pytest.approx(clip["end_seconds"] - clip["start_seconds"], abs=0.1)
    capsys.readouterr()
    assert main(["search", str(index), *map(str, command), "--picture", str(tmp_path / "found.png")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "clip: " in line]
    assert len(lines) == 3 and all("s before, at a key frame" in line for line in lines)


def test_clips_of_a_second_video_stream_are_queries(films, tiny_folder, tmp_path, capsys):
    path = make_video(tmp_path / "two.mkv", [17] * 4, second_stream=[24, 36, 24])
    flags = ["--model", str(tiny_folder), "--output", str(tmp_path / "index"), "--workers", "1", "--video-stream", "1"]
    assert main(["embed", str(path), *flags, "--shots-per-scene", "1"]) == 0
    command = ["--film", "two", "--at", "0", "--top", 1, "--cut", tmp_path / "clips", "--padding", 0]
    found = search(capsys, tmp_path / "index", *command)
    (hit,) = found["hits"]
    found = search(capsys, tmp_path / "index", "--clip", hit["clip"]["path"], "--top", 1)
    assert places(found) == [("two", hit["first_shot"])]


def test_films_that_are_gone_cost_their_clips_only(index, films, tiny_folder, tmp_path, capsys):
    mine = shutil.copytree(films, tmp_path / "films")
    flags = ["--model", str(tiny_folder), "--output", str(tmp_path / "index"), "--workers", "1"]
    assert main(["embed", str(mine / "alpha.mp4"), str(mine / "copies/beta.mkv"), *flags]) == 0
    (mine / "alpha.mp4").unlink()
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    command = ["--image", tmp_path / "black.png", "--cut", tmp_path / "clips", "--keep-duplicates"]
    document = search(capsys, tmp_path / "index", *command, status=1)
    by_film = {hit["movie_id"]: hit for hit in document["hits"]}
    assert by_film["alpha"]["clip"] is None and "not there any more" in by_film["alpha"]["clip_error"]
    assert Path(by_film["beta"]["clip"]["path"]).is_file()
    assert main(["search", str(tmp_path / "index"), *map(str, command)]) == 1
    out, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == out.count("alpha  ") and out.count("clip: ") == out.count("beta  ")


def test_bad_requests_are_one_line_each(index, films, tmp_path, capsys):
    one = make_video(tmp_path / "one.mp4", [30])
    text, sound = tmp_path / "text.mp4", make_audio(tmp_path / "sound.mp4")
    text.write_text("no film " * 999)
    (tmp_path / "file").write_text("")
    scene = ["--film", "alpha", "--at", "0"]
    for arguments, message in (
        (["--clip", one, "--from", "5", "--to", "4"], "--to 4 s must be after --from 5 s"),
        (["--clip", one, "--from", "1", "--to", "1"], "--to 1 s must be after"),
        (["--clip", one, "--from", "5"], "no picture from 5.0 s on; it has pictures up to 1.2 s"),
        (["--clip", one, "--from", "x"], "'x' is not a time"),
        (["--clip", text], "text.mp4: not a readable video"),
        (["--clip", sound], "no video stream"),
        (["--clip", tmp_path / "none.mp4"], "No such file"),
        (["--film", "", "--at", "0"], "3 films match ''"),
        ([*scene, "--from", "3"], "--from and --to are times within --clip"),
        ([*scene, "--film-id", "alp"], "no film has the id 'alp'; there are: alpha, copies/beta"),
        ([*scene, "--under", tmp_path], "no film to search lies under"),
        ([*scene, "--film-id", "alpha", "--across"], "nothing to find"),
        ([*scene, "--cut", tmp_path / "file"], "cannot be written"),
        ([*scene, "--cut", tmp_path, "--padding", "-1"], "--padding -1.0 must be"),
        ([*scene, "--cut", tmp_path, "--padding", "nan"], "--padding nan must be"),
        ([*scene, "--padding", "2"], "--padding 2.0 is for clips: --cut DIR"),
        ([*scene, "--model", "m"], "--model m: a scene of the index is compared as it is"),
        ([*scene, "--image", films], "not allowed with argument"),
        (["--clip", one, "--within"], "need a query scene"),
        ([*scene, "--uncentered"], "--uncentered is for words: --text"),
        (["--text", "a bridge", "--space", "raw"], "--space raw is for scenes"),
    ):
        assert message in refusal(capsys, index, *arguments)
        assert message in refusal(capsys, index, *arguments, "--json")


def test_a_clip_for_an_index_of_another_model_is_refused(index, tmp_path, tiny_folder, capsys):
    clip = make_video(tmp_path / "clip.mp4", [20])
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert "revision is" in refusal(capsys, index, "--clip", clip, "--model", other)


def test_an_empty_span_is_told_by_the_library(films):
    with pytest.raises(VideoError, match=r"no picture from 60\.0 to 70\.0 s"):
        detect_shots(films / "alpha.mp4", span=(60, 70))
