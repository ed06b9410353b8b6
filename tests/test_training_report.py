"""The page of a training: what it says is what its inputs hold, with a film world's truth and without."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data_scripts.make_film_world import main as make_film_world
from eval.film_worlds.pair_sets import write_true_pairs
from eval.film_worlds.retrieval import boundary_scores, fit_whitening
from eval.film_worlds.truth import LABELS, read_truth, shares
from eval.reports.training_page import nearest, unit
from eval.training_report import main
from modeling_m2s import M2SSceneModel, M2SSceneProcessor
from modeling_m2s.storage_m2s import FilmDataset
from train.curves import draw_curves

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HELD_OUT = [f"tt{9_000_000 + number}" for number in range(12)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tiny_folder) -> Path:
    """A world of 20 films, pairs of the same places, and what a run leaves: an encoder, results, curves."""
    folder = tmp_path_factory.mktemp("chain")
    sizes = ["--num_films", "20", "--film_seconds", "50", "--width", "64", "--height", "36", "--num_places", "6"]
    make_film_world(["--output", str(folder / "world"), "--keyframes_only", *sizes])
    truth = read_truth(folder / "world/truth/shots.csv")
    write_true_pairs(folder / "pairs", truth, sorted(set(truth) - set(HELD_OUT)), 30, seed=0)
    encoder = M2SSceneModel.from_pretrained(tiny_folder)
    with torch.no_grad():
        encoder.vision_model.encoder.layers[0].mlp.fc1.weight.mul_(1.5)
    encoder.save_pretrained(folder / "run/model")
    M2SSceneProcessor.from_pretrained(tiny_folder).save_pretrained(folder / "run/model")
    results = {
        "recipe": {"model": "<tiny>", "position_interpolation": "repeat", "batch_size": 4, "objective": "in_batch"},
        "counts": {"films": 7, "scene_pairs": 30},
        "steps": 3,
        "leak_guard": {"lists": {}},
        "made_with": {"device": "this one", "processes": 1},
    }
    (folder / "run/results.json").write_text(json.dumps(results))
    (folder / "run/curves.png").write_bytes(draw_curves({"loss": {"training": [(1, 2.0), (2, 1.0)]}}))
    (folder / "held_out.txt").write_text("\n".join(HELD_OUT))
    return folder


def flags(chain: Path, output: Path, tiny_folder: Path, *more: str | Path) -> list[str]:
    inputs = ["--run", chain / "run", "--shots", chain / "world/shots", "--pairs", chain / "pairs"]
    return [str(word) for word in (*inputs, "--before", tiny_folder, "--output", output, *more)]


@pytest.fixture(scope="module")
def page(chain, tiny_folder, tmp_path_factory) -> Path:
    """The page with all that a film world gives."""
    folder = tmp_path_factory.mktemp("page")
    for name, mean in (("before", 0.25), ("free_rival", 0.5)):
        figures = {"raw/precision_at_1": {"mean": mean, "standard_error": 0.04}}
        queries = {"movie_id": ["tt9000000"], "first_shot": [0]}
        measured = {"figures": figures, "queries": queries, "counts": {"queries": 31, "films": 8}, "chance": 0.167}
        (folder / f"{name}.json").write_text(json.dumps(measured))
    (folder / "seconds.csv").write_text("90,python -m train.train_moco\n30,<b>last</b>\n")
    more = ["--world", chain / "world", "--films", chain / "held_out.txt", "--seconds", folder / "seconds.csv"]
    more += ["--measured", folder / "before.json", folder / "free_rival.json"]
    main(flags(chain, folder / "report.html", tiny_folder, *more))
    return folder / "report.html"


def test_the_page_says_what_went_in(page, chain):
    text = page.read_text()
    pairs = FilmDataset(chain / "pairs", "scene_pairs").read().to_pylist()
    agree = shares(pairs, read_truth(chain / "world/truth/shots.csv"))
    said = ", ".join(f"{100 * agree[label]:.0f} % have the same {label}" for label in LABELS)
    assert f"Of all pairs, {said}." in text and f"{len(pairs)} of films similar by" in text
    assert "&lt;tiny&gt;" in text and "<b>last" not in text
    assert "31 scenes of 8 films" in text and "16.7 by chance" in text
    cells = re.findall(r'<td class="number">(<b>)?([\d.]+)(?:</b>)?<span', text)
    assert cells == [("", "25.0"), ("<b>", "50.0")]
    assert re.findall(r'<td class="number">(?:<b>)?([\d.]+)(?:</b>)?</td>', text) == ["1.5", "0.5", "2.0"]
    assert text.count("<h4>Query: place ") == 6 and text.count("scene boundaries</span>") == 2
    assert text.count("training, by place</h3>") == 2


def test_neighbors_are_of_other_films_and_the_nearest():
    random = np.random.default_rng(0)
    vectors, films = unit(random.normal(size=(30, 5))), np.array([f"f{n % 7}" for n in range(30)])
    found = nearest(vectors, films, 3)
    for query in range(30):
        others = [n for n in range(30) if films[n] != films[query]]
        expected = sorted(others, key=lambda n: -float(vectors[query] @ vectors[n]))[:3]
        assert found[query] == expected
    few = nearest(vectors[:3], np.array(["a", "a", "b"]), 2)  # fewer scenes in other films than asked for
    assert few[:2] == [[2], [2]] and sorted(few[2]) == [0, 1]


def test_boundaries_compare_four_shots_before_and_after_a_cut():
    scenes = ["a"] * 5 + ["b"] * 4 + ["c"] * 3
    shots = np.random.default_rng(0).normal(size=(len(scenes), 6))
    whitening = fit_whitening(np.random.default_rng(1).normal(size=(50, 6)))

    def embed(windows):
        return np.stack([shots[each.first_shot : each.first_shot + each.num_shots].mean(0) for each in windows])

    is_boundary, scores = boundary_scores(embed, whitening, "film", scenes)
    assert is_boundary == [False, True, False, False, False]  # after shots 4 to 8; after the ninth, "c" has three left
    for cut, score in zip(range(4, 9), scores, strict=True):
        one, other = (
            whitening.apply(shots[part].mean(0)[None])[0] for part in (slice(cut - 4, cut), slice(cut, cut + 4))
        )
        assert score == pytest.approx(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert boundary_scores(embed, whitening, "film", ["a"] * 7) == ([], [])


def test_films_of_ones_own_have_windows_of_nine_shots_and_no_verdicts(chain, tiny_folder, tmp_path):
    for name in ("one", "again"):
        main(flags(chain, tmp_path / f"{name}.html", tiny_folder))
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "again.html").read_text()
    films = FilmDataset(chain / "world/shots", "shots").films()
    assert sum(film.num_rows // 9 for film in films.values()) > 20
    assert "is-right" not in re.sub(r"(?s)<style>.*?</style>", "", text) and "true boundaries" not in text
    assert text.count("training, by film</h3>") == 2 and "by place</h3>" not in text
    assert set(re.findall(r", shot (\d+)</span>", text)) <= {str(first) for first in range(0, 30, 9)}


def test_what_makes_no_page_is_told(chain, tiny_folder, tmp_path):
    one, other, unknown = (tmp_path / name for name in ("one.txt", "other.json", "unknown.txt"))
    one.write_text(HELD_OUT[0])
    unknown.write_text("tt1")
    scenes = {"queries": {"movie_id": ["a"], "first_shot": [0]}, "figures": {}, "counts": {}, "chance": 0}
    other.write_text(json.dumps(scenes))
    (tmp_path / "third.json").write_text(json.dumps({**scenes, "queries": {"movie_id": ["b"], "first_shot": [0]}}))
    (tmp_path / "times.csv").write_text("soon,python\n")
    for more, message in (
        (["--films", one], r"1 films have \d+ scenes; a map needs at least 20"),
        (["--films", unknown], "names film tt1, which .* does not have"),
        (["--num-scenes", "3"], "num_scenes=3 must be at least 20"),
        (["--measured", other, tmp_path / "third.json"], "measured on different scenes"),
        (["--seconds", tmp_path / "times.csv"], "expected lines of seconds,command"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(flags(chain, tmp_path / "page.html", tiny_folder, *more))
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(SystemExit, match=r"results\.json: not readable"):
        main(flags(tmp_path, tmp_path / "page.html", tiny_folder))


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page, width):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        told: list[str] = []
        tab.on("console", lambda message: told.append(message.text))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.goto(page.as_uri())
        tab.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
        tab.wait_for_function("[...document.images].every(image => image.complete)")
        assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.alt)")
        assert tab.evaluate("document.images.length") > 60
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        for link in ("Results", "Mined pairs", "Curves"):  # by keyboard
            tab.keyboard.press("Tab")
            assert tab.evaluate("document.activeElement.textContent") == link
        assert tab.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
        assert told == []
        browser.close()
