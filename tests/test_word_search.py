"""Which photographs words find: names, ranks beside a loop, the command."""

import json

import numpy as np
import pytest
from PIL import Image

from eval.images.word_retrieval import found, is_named
from eval.word_search import main
from modeling_m2s.words_m2s import EVERYDAY


@pytest.mark.parametrize(
    "word, name, right",
    [
        ("bridge", "suspension bridge", True),
        ("bridge", "b/bridge", True),
        ("swimming pool", "s/swimming pool/outdoor", True),
        ("bridge", "footbridge", False),
        ("bridge", "bridge keeper", False),
        ("pool", "s/swimming pool/outdoor", True),
    ],
)
def test_a_photograph_is_right_for_the_last_words_of_its_name(word, name, right):
    assert is_named(word, name) is right


def test_ranks_are_those_of_a_loop():
    random = np.random.default_rng(0)
    images, texts = random.normal(size=(23, 7)) + 1, random.normal(size=(11, 7)) * random.uniform(1, 5, (11, 1)) + 2
    right, everyday = random.random((11, 23)) < 0.1, random.random(11) < 0.5
    right[4] = False
    figures = found(images, texts, right, everyday)
    unit_images = [image / np.linalg.norm(image) for image in images]
    unit_texts = [text / np.linalg.norm(text) for text in texts]
    image_mean = np.mean(unit_images, axis=0)
    text_mean = np.mean([text for text, chosen in zip(unit_texts, everyday, strict=True) if chosen], axis=0)
    for way, without_images, without_texts in (
        ("cosine", 0, 0),
        ("mean of words off", 0, 1),
        ("mean of photographs off", 1, 0),
        ("both means off", 1, 1),
    ):
        ranks = []
        for number, text in enumerate(unit_texts):
            if not right[number].any():
                continue
            cosines = []
            for image in unit_images:
                a, b = image - without_images * image_mean, text - without_texts * text_mean
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            order = np.argsort(cosines)[::-1]
            ranks.append(1 + min(place for place, image in enumerate(order) if right[number, image]))
        expected = [np.mean(np.array(ranks) <= 1), np.mean(np.array(ranks) <= 5), np.mean(1 / np.array(ranks))]
        assert list(figures[way].values()) == pytest.approx(expected)


def test_the_command_measures_photographs(tiny_folder, tmp_path):
    places = tmp_path / "photographs/miniplaces"
    for folder in (tmp_path / "imagenet_1000", places, tmp_path / "text"):
        folder.mkdir(parents=True)
    lines = ["file\torigin\tgroup"]
    for number, name in enumerate(("n01_rope_bridge", "n02_tent", "n03_tench")):
        Image.new("RGB", (40, 50), (90 * number, 40, 10)).save(tmp_path / f"imagenet_1000/{name}.jpg")
    for number in range(12):  # four of the test part
        Image.new("RGB", (64, 64), (20 * number, 90, 10)).save(places / f"{number:05d}.jpg")
        lines.append(f"miniplaces/{number:05d}.jpg\tsomewhere\tb/bridge")
    (tmp_path / "photographs/manifest.tsv").write_text("\n".join(lines) + "\n")
    words = ["bridge", "tent", "sea", *EVERYDAY[:3]]
    (tmp_path / "text/words.json").write_text(json.dumps([{"word": word} for word in words]))
    np.save(tmp_path / "text/vectors.npy", np.random.default_rng(0).normal(size=(6, 16)).astype(np.float16))
    flags = ["--words", str(tmp_path / "text"), "--photographs", str(tmp_path), "--results", str(tmp_path / "out.json")]
    main(["--models", str(tiny_folder), *flags])
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["sizes"] == {"photographs": 4, "words": 6, "words_asked": 2}
    (ways,) = results["models"].values()
    assert all(0 <= figure <= 1 for figure in ways["both means off"].values())


@pytest.mark.slow
def test_words_find_photographs_by_clip(assets, clip_folder, tmp_path):
    flags = ["--words", str(assets / "text"), "--photographs", str(assets / "images")]
    main(["--models", str(clip_folder), "m2s-clip-tiny", *flags, "--results", str(tmp_path / "out.json")])
    clip, tiny = json.loads((tmp_path / "out.json").read_text())["models"].values()
    assert clip["cosine"]["top_5"] > 0.8 and clip["mean of words off"]["top_5"] > 0.85
    assert 0.4 < tiny["mean of words off"]["top_5"] < 0.7
