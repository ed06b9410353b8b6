"""An index asked in words: vectors of shots beside transformers' own, the command, films added, kills, bad input."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from hub_server import Hub
from make_videos import make_video
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerBase
from trees import tree

from m2s.main import main
from modeling_m2s.pretrained_m2s import tiny_model
from modeling_m2s.storage_m2s import FilmDataset
from modeling_m2s.words_m2s import EVERYDAY, WordSearch, WordStore, embed_text, similarity, unit


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Films of 11, 7 and 1 shots, and a copy of the second."""
    folder = tmp_path_factory.mktemp("films")
    make_video(folder / "alpha.mp4", [17] * 11, seed=1)
    make_video(folder / "beta.mkv", [25] * 7, seed=2)
    make_video(folder / "beta again.mp4", [25] * 7, seed=2, keyframe_interval=7)
    make_video(folder / "it's\na film.mp4", [20], seed=3)
    return folder


@pytest.fixture(scope="module")
def index(films, tiny_folder, word_folder, tmp_path_factory) -> Path:
    """An index of the films with words."""
    output = tmp_path_factory.mktemp("index") / "index"
    flags = ["--model", str(tiny_folder), "--output", str(output), "--keyframes-per-shot", "2", "--workers", "1"]
    assert main(["embed", str(films), *flags]) == 0
    assert main(["words", str(output), "--model", str(word_folder)]) == 0
    return output


def rows(index: Path) -> dict[str, np.ndarray]:
    """The vectors (shots, D) of every film."""
    stored = FilmDataset(index / "words", "shot_features").read().to_pylist()
    return {r["movie_id"]: np.frombuffer(r["features"], "<f2").reshape(r["num_shots"], r["dim"]) for r in stored}


@pytest.fixture(scope="module")
def expected(index, word_folder) -> dict[tuple[str, int], np.ndarray]:
    """The vector of every shot by transformers' CLIP alone, an image at a time."""
    model, processor = CLIPModel.from_pretrained(word_folder).eval(), CLIPImageProcessor.from_pretrained(word_folder)
    found = {}
    for shot in load_dataset(str(index / "shots"), split="train"):
        embeds = []
        for image in shot["keyframes"]:
            with torch.inference_mode():
                outputs = model.vision_model(processor([image.convert("RGB")], return_tensors="pt")["pixel_values"])
                embeds.append(model.visual_projection(outputs.pooler_output)[0].numpy())
        found[shot["movie_id"], shot["shot_index"]] = np.mean([e / np.linalg.norm(e) for e in embeds], axis=0)
    return found


@functools.cache
def towers(folder: Path) -> tuple[CLIPModel, PreTrainedTokenizerBase]:
    return CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@functools.cache
def text_vector(text: str, folder: Path) -> np.ndarray:
    """The vector of a text by transformers' CLIP alone."""
    model, tokenizer = towers(folder)
    with torch.inference_mode():
        outputs = model.text_model(**tokenizer(text, return_tensors="pt"))
        return model.text_projection(outputs.pooler_output)[0].numpy()


def test_vectors_are_those_of_transformers(index, expected, word_folder):
    found = {
        (movie_id, shot): vector for movie_id, vectors in rows(index).items() for shot, vector in enumerate(vectors)
    }
    assert found.keys() == expected.keys() and len(found) == 26
    for place, vector in expected.items():
        np.testing.assert_allclose(found[place], vector, atol=2e-3)
    settings = json.loads((index / "words/m2s.json").read_text())["settings"]
    assert (settings["encoder"], settings["dim"]) == (str(word_folder), 16)
    plain = unit(text_vector("a bridge", word_folder))
    everyday = [unit(text_vector(f"a photo of a {word}", word_folder)) for word in EVERYDAY]
    for centered, vector in ((False, plain), (True, unit(plain - np.mean(everyday, axis=0)))):
        found = embed_text("a bridge", str(word_folder), settings["revision"], centered)
        np.testing.assert_allclose(found, vector, atol=1e-4)


def test_words_find_the_shots_that_a_loop_finds(index, expected, word_folder, capsys):
    text = text_vector("a bridge at night", word_folder)
    cosines = {place: unit(vector) @ unit(text) for place, vector in expected.items()}
    order = sorted(cosines, key=lambda place: -cosines[place])[:6]
    capsys.readouterr()
    command = ["search", str(index), "--text", "a bridge at night", "--top", "6", "--keep-duplicates"]
    command += ["--uncentered", "--json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    found = [(hit["movie_id"], hit["first_shot"]) for hit in document["hits"]]
    # float16 may exchange shots whose cosines are equal to three decimals
    assert [round(float(cosines[place]), 2) for place in found] == [round(float(cosines[place]), 2) for place in order]
    scenes = load_dataset(str(index / "scene_embeddings"), split="train").to_list()
    for hit in document["hits"]:
        assert hit["similarity"] == pytest.approx(cosines[hit["movie_id"], hit["first_shot"]], abs=2e-3)
        (scene,) = [
            scene
            for scene in scenes
            if scene["movie_id"] == hit["movie_id"]
            and scene["first_shot"] <= hit["first_shot"] < scene["first_shot"] + scene["num_shots"]
        ]
        assert hit["scene"] == {name: scene[name] for name in hit["scene"]} and hit["num_shots"] == 1
    assert main(command[:-1]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'query   "a bridge at night"' and "similarity" in lines[1] and "in scene 00:00" in lines[1]
    assert Image.open(index / "search.png").size[0] >= 640
    (index / "search.png").unlink()


def test_restricted_and_folded_results_are_those_of_a_loop(index, word_folder):
    words = WordSearch(index)
    vector = text_vector("seven", word_folder)
    within = words.search(vector, 99, movie_ids={"beta"})
    assert [shot.movie_id for shot in within] == ["beta"] * 7
    distances = [np.linalg.norm(row - unit(vector)) for row in words.vectors]
    nearest = [(shot.row, shot.movie_id, shot.first_shot) for shot in words.search(vector, 3)]
    stored = FilmDataset(index / "shots", "shots").read(["movie_id", "shot_index", "start_seconds", "end_seconds"])
    places = [tuple(shot.values()) for shot in stored.to_pylist()]
    assert nearest == [(row, *places[row][:2]) for row in np.argsort(distances, kind="stable")[:3]]
    found = words.search(vector, 99)
    assert sorted((s.movie_id, s.first_shot, s.start_seconds, s.end_seconds) for s in found) == places
    assert [shot.distance for shot in words.search(vector, 99)] == pytest.approx(sorted(distances))
    assert similarity(within[0].distance) == pytest.approx(unit(vector) @ words.vectors[within[0].row], abs=1e-5)
    pairs = np.linalg.norm(words.vectors[:, None] - words.vectors[None], axis=-1)
    radius = 0.3 * np.sqrt((pairs**2).mean())
    kept: dict[int, int] = {}
    for row in np.argsort(distances, kind="stable"):
        near = [other for other in kept if pairs[row, other] <= radius]
        if near:
            kept[near[0]] += 1
        else:
            kept[row] = 0
    assert {shot.row: shot.num_folded for shot in words.search(vector, 99, fold=True)} == kept
    assert sum(kept.values()) == 7  # each shot of the copy


def test_films_added_later_are_kept_in_step_and_the_rest_is_not_read_again(
    index, films, tiny_folder, word_folder, tmp_path, capsys
):
    flags = ["--model", str(tiny_folder), "--keyframes-per-shot", "2", "--workers", "1"]
    grown = tmp_path / "index"
    assert main(["embed", str(films / "beta.mkv"), "--output", str(grown), *flags]) == 0
    assert main(["words", str(grown), "--model", str(word_folder)]) == 0
    assert main(["embed", str(films), "--output", str(grown), *flags]) == 0
    assert {name: data for name, data in tree(grown).items() if name.startswith("words")} == {
        name: data for name, data in tree(index).items() if name.startswith("words")
    }
    before = tree(grown)
    assert main(["words", str(grown)]) == 0
    assert "0 read now" in capsys.readouterr().out
    assert tree(grown) == before


def test_films_without_words_are_told_and_not_searched(index, films, tiny_folder, word_folder, tmp_path, capsys):
    flags = ["--model", str(tiny_folder), "--keyframes-per-shot", "2", "--workers", "1"]
    grown = tmp_path / "index"
    moved = shutil.copytree(word_folder, tmp_path / "moved")
    assert main(["embed", str(films / "beta.mkv"), "--output", str(grown), *flags]) == 0
    assert main(["words", str(grown), "--model", str(moved)]) == 0
    shutil.rmtree(moved)
    capsys.readouterr()
    assert main(["embed", str(films), "--output", str(grown), *flags]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "words" in line and f"m2s words {grown}" in line
    assert WordSearch(grown).lacking == ["alpha", "beta again", "it's\na film"]
    command = ["search", str(grown), "--text", "x", "--top", "99", "--json", "--model", str(word_folder)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert {hit["movie_id"] for hit in json.loads(out)["hits"]} == {"beta"} and "not searched: 3" in err
    assert main([*command, "--film-id", "alpha"]) == 1
    assert main(["words", str(grown), "--model", str(word_folder)]) == 0
    assert WordSearch(grown).lacking == []


def test_a_killed_run_continues_to_the_same_bytes(index, word_folder, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(index, tmp_path / "index")
    shutil.rmtree(copy / "words")
    write, written = FilmDataset.write_film, []

    def killed(self, *arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(arguments[0])
        write(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(FilmDataset, "write_film", killed)
        assert main(["words", str(copy), "--model", str(word_folder)]) == 130
    capsys.readouterr()
    assert main(["search", str(copy), "--text", "x"]) == 1
    assert "the words of the index are not finished; run: m2s words" in capsys.readouterr().err
    assert [film.movie_id for film in WordStore(copy).missing()] == ["it's\na film"]
    assert main(["words", str(copy)]) == 0
    assert tree(copy / "words") == tree(index / "words")


@pytest.mark.parametrize("command", ["embed", "words"])
def test_a_film_whose_new_words_are_not_packed_is_told_and_not_searched(
    command, films, tiny_folder, word_folder, tmp_path, monkeypatch
):
    mine, grown = tmp_path / "films", tmp_path / "index"
    mine.mkdir()
    shutil.copy(films / "beta.mkv", mine)
    shutil.copy(films / "it's\na film.mp4", mine / "replaced.mp4")
    flags = ["--model", str(tiny_folder), "--output", str(grown), "--workers", "1"]
    assert main(["embed", str(mine), *flags]) == 0
    assert main(["words", str(grown), "--model", str(word_folder)]) == 0
    shutil.copy(films / "alpha.mp4", mine / "replaced.mp4")  # 11 shots in place of 1
    shutil.copy(films / "alpha.mp4", mine / "new.mp4")
    finish = FilmDataset.finish

    def killed(self, *arguments, **facts):
        if self.folder.name == "words":
            raise KeyboardInterrupt
        finish(self, *arguments, **facts)

    with monkeypatch.context() as patched:
        patched.setattr(FilmDataset, "finish", killed)
        assert main(["embed", str(mine), *flags]) == 130
    assert WordStore(grown).missing() == []
    words = WordSearch(grown)
    assert words.lacking == ["new", "replaced"] and {*words.places["movie_id"].to_pylist()} == {"beta"}
    if command == "embed":
        assert main(["embed", str(mine), *flags]) == 0
    else:
        assert main(["words", str(grown)]) == 0
    words = WordSearch(grown)
    assert words.lacking == [] and len(words.places) == 7 + 11 + 11


def test_a_model_that_has_moved_is_found_at_its_new_place(index, word_folder, tmp_path, capsys):
    mine = shutil.copytree(index, tmp_path / "index")
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(word_folder, first)
    assert main(["words", str(mine), "--model", str(first)]) == 0
    assert WordStore(mine).model == str(first)
    first.rename(second)
    capsys.readouterr()
    assert main(["search", str(mine), "--text", "x"]) == 1
    assert main(["words", str(mine), "--model", str(second)]) == 0
    assert "0 read now" in capsys.readouterr().out
    assert WordStore(mine).model == str(second) and FilmDataset(mine / "words", "shot_features").check() == []
    assert main(["search", str(mine), "--text", "x"]) == 0


def test_an_interrupted_search_text_names_the_command(films, tiny_folder, tmp_path, capsys):
    flags = ["--model", str(tiny_folder), "--output", str(tmp_path / "index"), "--workers", "1"]
    assert main(["embed", str(films / "beta.mkv"), *flags]) == 0
    capsys.readouterr()
    assert main(["search", str(tmp_path / "index"), "--text", "x"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no words yet" in line and f"m2s words {tmp_path / 'index'} --model" in line
    assert main(["words", str(tmp_path / "index")]) == 1
    assert "name a CLIP model" in capsys.readouterr().err
    assert main(["words", str(tmp_path / "no index"), "--model", "x"]) == 1
    assert "no index here" in capsys.readouterr().err


def test_other_models_are_refused_in_one_line(index, tiny_folder, word_folder, tmp_path, capsys):
    vision = tmp_path / "vision"
    CLIPModel.from_pretrained(word_folder).vision_model.save_pretrained(vision)
    other = shutil.copytree(word_folder, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    before = tree(index)
    for model, reason in (
        (tiny_folder, "cannot be asked in words"),
        (tiny_model(), "cannot be asked in words"),
        (vision, "has no text tower"),
        (other, "revision"),
        ("openai/clip-vit-base-patch16", "the Hub cannot be reached"),
        (tmp_path / "nowhere", "cannot be loaded"),
    ):
        for command in (["words", str(index)], ["search", str(index), "--text", "a bridge"]):
            capsys.readouterr()
            assert main([*command, "--model", str(model)]) == 1, model
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert reason in line
    assert tree(index) == before


@pytest.mark.parametrize("text, message", [("", "--text is empty"), (" \n", "--text is empty"), ("x" * 99, "tokens")])
def test_empty_and_long_texts_are_refused(index, capsys, text, message):
    assert main(["search", str(index), "--text", text]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_shots_without_a_keyframe_are_never_found(index, word_folder, tmp_path):
    copy = shutil.copytree(index, tmp_path / "index")
    store = WordStore(copy)
    film = store.films["beta"]
    vectors = rows(copy)["beta"].copy()
    vectors[3] = 0
    row = {"movie_id": "beta", "num_shots": 7, "dim": 16, "dtype": "float16", "features": vectors.tobytes()}
    store.dataset.write_film("beta", [row], {"fingerprint": film.facts["fingerprint"]})
    store.dataset.finish(store.films, {})
    words = WordSearch(copy)
    found = words.search(np.ones(16), 99, movie_ids={"beta"})
    assert sorted(shot.first_shot for shot in found) == [0, 1, 2, 4, 5, 6]
    assert len(words.vectors) == len(words.places) == 25


@pytest.mark.slow
def test_a_model_of_the_hub_is_pinned_and_asked_without_a_network(index, word_folder, tmp_path):
    copy = shutil.copytree(index, tmp_path / "index")
    shutil.rmtree(copy / "words")

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "m2s", *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == status, ended.stderr
        return ended

    with Hub() as hub:
        hub.add("someone/clip", word_folder)
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        run("words", str(copy), "--model", "someone/clip")
    settings = json.loads((copy / "words/m2s.json").read_text())["settings"]
    assert settings["encoder"] == "someone/clip" and len(settings["revision"]) == 40
    for offline in ("0", "1"):  # the server is gone
        environment["HF_HUB_OFFLINE"] = offline
        document = json.loads(run("search", str(copy), "--text", "a bridge", "--json").stdout)
        assert len(document["hits"]) == 5
    environment |= hub.environment(tmp_path / "empty cache") | {"HF_HUB_OFFLINE": "1"}
    (line,) = run("search", str(copy), "--text", "a bridge", status=1).stderr.strip().splitlines()
    assert "model someone/clip" in line and "the Hub cannot be reached and its cache does not hold it" in line
