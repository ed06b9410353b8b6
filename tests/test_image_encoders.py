"""Measuring a small image encoder: each figure against a loop written out, the command on generated places."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from make_videos import make_video
from moco_world import movie_ids, num_shots, write_shots
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from eval.image_encoders import EncoderArguments, main
from eval.images.comparison import NOT_SHOWN, clip_encoder, measure, pixel_encoder, read_classes, read_words
from eval.images.measures import classify, common_share, named_words, neighbor_agreement, spread

POOLED = "student, pooler_output"


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_retrieval_is_the_class_of_the_nearest_by_cosine():
    random = np.random.default_rng(0)
    gallery, queries = random.normal(size=(13, 5)), random.normal(size=(29, 5)) * 7
    classes, truth = [f"c{n % 3}" for n in range(13)], [f"c{n % 3}" for n in range(29)]
    hits = 0
    for query, name in zip(queries, truth, strict=True):
        nearest = max(range(13), key=lambda n: cosine(query, gallery[n]))
        hits += classes[nearest] == name
    found = classify(gallery, classes, queries, truth)
    assert found["retrieval"] == hits / 29
    off = gallery.mean(0)
    nearest = [max(range(13), key=lambda n, q=query: cosine(q - off, gallery[n] - off)) for query in queries]
    assert found["centered"] == np.mean([classes[n] == name for n, name in zip(nearest, truth, strict=True)])
    assert classify(gallery + 50, classes, queries + 50, truth)["centered"] == found["centered"]


def test_spread_is_the_common_share_and_the_nearest_of_other_groups():
    random = np.random.default_rng(0)
    embeds = random.normal(size=(23, 4)) + np.array([2, 0, 1, 0])
    labels, groups = [f"place {n % 3}" for n in range(23)], [f"film {n % 5}" for n in range(23)]

    def hits(points):
        others = [[m for m in range(23) if groups[m] != groups[n]] for n in range(23)]
        nearest = [max(others[n], key=lambda m: cosine(points[n], points[m])) for n in range(23)]
        return np.mean([labels[n] == labels[nearest[n]] for n in range(23)])

    found = spread(embeds, labels, groups)
    mean = [sum(row[d] for row in embeds) / 23 for d in range(4)]
    assert found["common"] == pytest.approx(sum(x * x for x in mean) / np.mean([row @ row for row in embeds]))
    assert (found["retrieval"], found["centered"]) == (hits(embeds), hits(embeds - mean))
    assert common_share(np.ones((5, 3))) == pytest.approx(1) and common_share(np.array([[1.0, 2], [-1, -2]])) == 0


def test_words_are_found_by_cosine():
    random = np.random.default_rng(0)
    images, words = random.normal(size=(17, 6)) + 1, random.normal(size=(9, 6)) * random.uniform(1, 5, (9, 1))
    named = random.integers(0, 9, 17)
    found = named_words(images, words, named)
    for space, (ours, theirs) in {
        "": (images, words),
        "centered_": (images - images.mean(0), words - words.mean(0)),
    }.items():
        ranked = [sorted(range(9), key=lambda w: -cosine(image, theirs[w])) for image in ours]
        for k in (1, 5):
            share = np.mean([named[n] in ranked[n][:k] for n in range(17)])
            assert found[f"{space}top_{k}"] == pytest.approx(share)


def test_groups_name_words(tmp_path):
    words = ["sky", "swimming pool", "bar", "sky"]
    (tmp_path / "words.json").write_text(json.dumps([{"word": word} for word in words]))
    np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float16))
    vectors, named = read_words(tmp_path, ["s/swimming_pool/outdoor", "b/bar", "b/bars", "sky", "s/skyscraper"])
    assert vectors.dtype == np.float32 and named.tolist() == [1, 2, -1, 0, -1]


def test_probe_finds_a_direction_that_neighbors_miss():
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 20)) * 10
    features[:, 3] = np.arange(400) % 2 + random.normal(size=400) * 0.1
    classes = [str(n % 2) for n in range(400)]
    found = classify(features[:200], classes[:200], features[200:], classes[200:])
    assert found["probe"] > 0.9 > 0.7 > found["retrieval"]


def test_agreement_counts_neighbors_and_ranks_pairs():
    random = np.random.default_rng(0)
    reference, other = random.normal(size=(11, 6)), random.normal(size=(11, 6))
    first = in_three = 0
    for n in range(11):
        rest = [m for m in range(11) if m != n]
        ranked = sorted(rest, key=lambda m: -cosine(reference[n], reference[m]))
        nearest = max(rest, key=lambda m: cosine(other[n], other[m]))
        first += nearest == ranked[0]
        in_three += nearest in ranked[:3]
    found = neighbor_agreement(other, reference)
    assert (found["nearest"], found["nearest_of_three"]) == (first / 11, in_three / 11)
    assert neighbor_agreement(reference * 3, reference) == pytest.approx(
        {"nearest": 1, "nearest_of_three": 1, "correlation": 1}
    )
    assert abs(found["correlation"]) < 0.5


def test_pixels_ignore_brightness_and_contrast():
    pixels = np.random.default_rng(0).integers(40, 120, (8, 8, 3), dtype=np.uint8).repeat(5, 0).repeat(4, 1)
    dark, light = pixel_encoder([Image.fromarray(pixels), Image.fromarray(pixels * 2)])
    assert dark.shape == (192,) and np.allclose(dark, light, atol=0.1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """Places of three colors, a film of four shots, two towers of random weights."""
    folder = tmp_path_factory.mktemp("encoders")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for n in range(5):
                pixels = random.integers(0, 80, (50, 70, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{n}.png")
    make_video(folder / "film.mp4", [20] * 4, seed=1)
    for name, size in (("student", 32), ("teacher", 64)):
        torch.manual_seed(1)
        config = CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=size,
            patch_size=16, projection_dim=16,
        )  # fmt: skip
        CLIPVisionModelWithProjection(config).save_pretrained(folder / name)
        CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size).save_pretrained(folder / name)
    places = {"places": str(folder), "video": str(folder / "film.mp4")}
    return {"student": str(folder / "student"), "teacher": str(folder / "teacher"), **places}


def test_the_command_measures_every_encoder(inputs, tmp_path, monkeypatch, capsys):
    words = [word for name, value in inputs.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["image_encoders", *words, "--output", str(tmp_path / "out.json")])
    main()
    results = json.loads((tmp_path / "out.json").read_text())
    rows = results["encoders"]
    assert results["sizes"] == {"classes": 3, "gallery": 15, "queries": 15, "shots": 4}
    assert list(rows) == ["teacher", "student", POOLED, "random student", "8×8 pixels", "chance"]
    assert rows["teacher"]["film"]["nearest"] == 1 and rows["chance"]["places"]["retrieval"] == pytest.approx(1 / 3)
    assert rows["student"] != rows["random student"] and rows["student"] != rows[POOLED]
    assert results.keys() == {"sizes", "encoders"}
    table = capsys.readouterr().out
    assert all(name in table for name in rows) and "33.3 %" in table


@pytest.fixture(scope="module")
def more_inputs(tmp_path_factory, inputs) -> dict[str, str]:
    """Photographs of two groups with the words that name them, and a film world of two films."""
    folder = tmp_path_factory.mktemp("more")
    rows = ["file\tgroup"]
    for number in range(24):
        group = ("b/bar", "s/sky/night")[number % 2]
        path = folder / f"photographs/miniplaces/{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels // (1 + number % 2)).save(path)
        rows.append(f"miniplaces/{number:05d}.jpg\t{group}")
    (folder / "photographs/manifest.tsv").write_text("\n".join(rows) + "\n")
    (folder / "words").mkdir()
    (folder / "words/words.json").write_text(json.dumps([{"word": w} for w in ("sky", "bar", "tree", "a", "b", "c")]))
    np.save(folder / "words/vectors.npy", np.random.default_rng(0).normal(size=(6, 16)).astype(np.float16))
    write_shots(folder / "world/shots", films=2)
    truth = ["movie_id,scene,place,event,types"]
    for film, movie_id in enumerate(movie_ids(2)):
        truth += [f"{movie_id},0,{('hill', 'sea')[shot % 2]},none,night" for shot in range(num_shots(film))]
    (folder / "world/truth").mkdir()
    (folder / "world/truth/shots.csv").write_text("\n".join(truth) + "\n")
    films = [f"{movie_id},0,0" for movie_id in movie_ids(2)]
    (folder / "world/truth/films.csv").write_text("\n".join(["movie_id,theme,look", *films]) + "\n")
    places = {name: str(folder / name) for name in ("photographs", "words", "world")}
    return {**places, "seen_video": inputs["video"]}


def test_spread_and_words_are_measured_where_their_inputs_are_given(inputs, more_inputs, tmp_path, capsys):
    words = [word for name, value in {**inputs, **more_inputs}.items() for word in (f"--{name}", value)]
    main([*words, "--output", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())
    sizes = results["sizes"]
    assert (sizes["photographs"], sizes["named_photographs"], sizes["named_words"], sizes["words"]) == (8, 8, 2, 6)
    assert (sizes["seen_shots"], sizes["world_shots"]) == (4, num_shots(0) + num_shots(1))
    assert results["spread"].keys() == {"photographs", "seen_film", "film_world"}
    encoders = {"teacher", "student", POOLED, "random student", "8×8 pixels"}
    for rows in results["spread"].values():
        assert rows.keys() == encoders
        assert all(0 <= value <= 1 for row in rows.values() for value in row.values())
    assert results["spread"]["seen_film"]["teacher"]["centered"] == 1
    assert results["words"].keys() == {"teacher", "student", "random student"}
    table = capsys.readouterr().out
    assert "film_world, in common" in table and "right word first" in table


def test_vectors_are_those_of_transformers(inputs):
    model = CLIPVisionModelWithProjection.from_pretrained(inputs["student"]).eval()
    processor = CLIPImageProcessorPil.from_pretrained(inputs["student"])
    images, _ = read_classes(Path(inputs["places"]) / "train")
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeds, pooled = model(pixels).image_embeds, CLIPVisionModel.from_pretrained(inputs["student"])(pixels)
    np.testing.assert_allclose(clip_encoder(model, processor, batch_size=4)(images), embeds, atol=1e-5)
    found = clip_encoder(model, processor, pooled=True, batch_size=4)(images)
    np.testing.assert_allclose(found, pooled.pooler_output.detach(), atol=1e-5)


def test_another_student_is_another_row(inputs):
    arguments = {**inputs, "places": Path(inputs["places"]), "student_without": inputs["teacher"]}
    rows = measure(EncoderArguments(**arguments))["encoders"]
    assert list(rows)[1:3] == ["student", NOT_SHOWN]
    assert rows[NOT_SHOWN] == rows["teacher"] != rows["student"]


def test_a_places_network_is_another_row(inputs, assets):
    arguments = EncoderArguments(**{**inputs, "places": Path(inputs["places"])}, places_network=assets / "baselines")
    assert "SqueezeNet (Places365)" in measure(arguments)["encoders"]


def test_folders_without_classes_are_refused(inputs, tmp_path):
    with pytest.raises(ValueError, match="no images in folders of classes"):
        read_classes(tmp_path)
    with pytest.raises(ValueError, match="train"):
        measure(EncoderArguments(**{**inputs, "places": tmp_path}))
