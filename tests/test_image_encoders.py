"""Measuring a small image encoder: each figure against a loop written out, the command on generated places."""

import json
import sys

import numpy as np
import pytest
import torch
from make_videos import make_video
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from eval.image_encoders import (
    EncoderArguments,
    classify,
    main,
    measure,
    neighbor_agreement,
    pixel_encoder,
    read_classes,
)


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
    assert classify(gallery, classes, queries, truth)["retrieval"] == hits / 29


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
    assert list(rows) == ["teacher", "student", "random student", "8×8 pixels", "chance"]
    assert rows["teacher"]["film"]["nearest"] == 1 and rows["chance"]["places"]["retrieval"] == pytest.approx(1 / 3)
    assert rows["student"] != rows["random student"]
    table = capsys.readouterr().out
    assert all(name in table for name in rows) and "33.3 %" in table


def test_folders_without_classes_are_refused(inputs, tmp_path):
    with pytest.raises(ValueError, match="no images in folders of classes"):
        read_classes(tmp_path)
    with pytest.raises(ValueError, match="train"):
        measure(EncoderArguments(**{**inputs, "places": tmp_path}))
