"""The page of a film: its content, and in a browser clicks, keys, narrow screens, names that are HTML."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from make_videos import make_video

from m2s.main import main
from modeling_m2s.film_page_m2s import MOST_KEYFRAMES, MOST_SIMILAR, film_page, similar_scenes
from modeling_m2s.search_m2s import SceneIndex

NASTY = "<img src=x onerror=alert(1)> </script></title> '\"&é"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def index(tiny_folder, tmp_path_factory) -> Path:
    """A film of 26 shots in overlapping scenes, and a film of a single scene."""
    folder = tmp_path_factory.mktemp("films")
    make_video(folder / "long.mp4", [20] * 26, seed=1)
    make_video(folder / "short.mp4", [20] * 4, seed=2)
    output = tmp_path_factory.mktemp("index") / "out"
    flags = ["--model", str(tiny_folder), "--shots-per-scene", "12", "--stride", "4", "--output", str(output)]
    assert main(["embed", str(folder), *flags]) == 0
    return output


class Page(HTMLParser):
    """A page's elements with their attributes, its text, and what its script reads."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.content = json.loads(re.search(r'id="m2s-content">(.*?)</script>', text, re.DOTALL)[1])

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag = self.elements[-1][0] if self.elements else ""
        self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [each[attribute] for name, each in self.elements if name == tag and attribute in each]


def test_the_page_shows_every_scene_and_each_keyframe_once(index):
    scenes = [scene for scene in SceneIndex(index).scenes if scene.movie_id == "long"]
    page = Page(film_page(SceneIndex(index), "long"))
    assert page.all("li", "id") == [f"scene-{k + 1}" for k in range(len(scenes))]
    assert page.all("button", "data-scene") == [str(k) for k in range(len(scenes))] * 2
    shown = [int(shot) for shot in page.all("img", "data-shot")]
    assert len(shown) == sum(min(scene.num_shots, MOST_KEYFRAMES) for scene in scenes)
    assert sorted(map(int, page.content["pictures"])) == sorted(set(shown))
    assert shown[:MOST_KEYFRAMES] == [0, 1, 3, 4, 6, 7, 8, 10, 11]
    assert page.all("img", "alt") == [
        f"Shot {shot + 1}, {20 * shot // 24 // 60:02d}:00:{20 * shot // 24:02d}" for shot in shown
    ]
    widths = [float(re.search(r"flex-grow:([\d.]+)", style)[1]) for style in page.all("button", "style")[: len(scenes)]]
    edges = [*(scene.start_seconds for scene in scenes), scenes[-1].end_seconds]
    assert widths == pytest.approx(np.diff(edges), abs=1e-3)
    assert "00:00:21 · 26 shots · 5 scenes" in page.texts["p"]


def test_similar_scenes_are_those_of_a_search_in_the_film(index):
    scenes = SceneIndex(index)
    own = [scene for scene in scenes.scenes if scene.movie_id == "long"]
    vectors = scenes.points[[scene.row for scene in own]]
    mean = np.mean([((a - b) ** 2).sum() for a in vectors for b in vectors])
    for number, found in enumerate(similar_scenes(scenes, own)):
        kept: list[int] = []
        for other in np.argsort(((vectors - vectors[number]) ** 2).sum(1), kind="stable"):
            if not any(own[other].overlaps(own[k]) for k in [number, *kept]):
                kept.append(int(other))
        assert [other for other, _ in found] == kept[:MOST_SIMILAR]
        expected = [1 - ((vectors[number] - vectors[other]) ** 2).sum() / mean for other, _ in found]
        assert [similarity for _, similarity in found] == pytest.approx(expected, abs=1e-3)


def renamed(index: Path, folder: Path, movie_id: str) -> Path:
    """The page of a film whose id is another."""
    scenes = SceneIndex(index)
    scenes.films[movie_id] = scenes.films["long"]
    for scene in scenes.scenes:
        scene.movie_id = movie_id if scene.movie_id == "long" else scene.movie_id
    path = folder / "page.html"
    path.write_text(film_page(scenes, movie_id), encoding="utf-8")
    return path


def test_names_are_text_and_never_elements(index, tmp_path):
    page = Page(renamed(index, tmp_path, NASTY).read_text(encoding="utf-8"))
    assert page.texts["title"].strip() == NASTY and page.texts["h1"] == NASTY
    assert not [each for _, each in page.elements if "onerror" in each or each.get("src") == "x"]
    assert sum(name == "script" for name, _ in page.elements) == 2


def test_the_page_needs_nothing_else(index):
    text = film_page(SceneIndex(index), "long")
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[^"'\s>]+""", text.split("<script>")[0]) == []
    assert "default-src 'none'" in text


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a page; at the end, none asked a server or had an error."""
    contexts, foreign, errors = [], [], []

    def visit(path: Path, width: int = 1280, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: foreign.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: (errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == [] and [url for url in foreign if not url.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def exported(index) -> dict[str, Path]:
    """The pages of both films, by the command line."""
    assert main(["export", str(index), "--format", "html"]) == 0
    return {name: next((index / "exports").glob(f"{name}-*.html")) for name in ("long", "short")}


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_shows_similar_scenes_below_the_scene(open_page, exported, width):
    page = open_page(exported["long"], width)
    for image in page.locator("img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
        assert image.get_attribute("alt").startswith("Shot ")
    assert page.locator(".m2s-similar").count() == 0
    page.locator(".m2s-scene").nth(0).click()
    similar = Page(exported["long"].read_text(encoding="utf-8")).content["similar"][0]
    assert page.locator("#scene-1 .m2s-match").count() == len(similar) > 0
    assert page.locator("[aria-pressed=true]").evaluate_all("all => all.map(each => each.dataset.scene)") == ["0", "0"]
    for match in page.locator(".m2s-match").all_inner_texts():
        assert re.fullmatch(r"Scene [45]\n\d\d:\d\d:\d\d.\d – \d\d:\d\d:\d\d.\d\nsimilarity -?\d\.\d\d", match)
    number = int(page.locator(".m2s-match").last.get_attribute("data-scene"))
    page.locator(".m2s-match").last.click()
    assert page.locator(f"#scene-{number + 1} .m2s-similar").count() == 1 and page.locator(".m2s-similar").count() == 1
    assert page.evaluate("document.activeElement.dataset.scene") == str(number)
    assert (
        page.locator(f"#scene-{number + 1} .m2s-scene").bounding_box()["y"]
        >= page.locator(".m2s-top").bounding_box()["height"] - 1
    )
    page.locator(".m2s-timeline button").nth(2).click()
    assert page.locator("#scene-3 .m2s-similar").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        f"[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > {width + 1}).length"
    )
    assert wide == 0


@needs_browser
@pytest.mark.slow
def test_the_page_is_used_by_keys_alone(open_page, exported):
    page = open_page(exported["long"])
    active = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    page.keyboard.press("Tab")
    assert page.evaluate(active).startswith("Scene 1, 00:00:00.0")
    for key, scene in (
        ("ArrowRight", 2),
        ("End", 5),
        ("ArrowRight", 5),
        ("ArrowLeft", 4),
        ("Home", 1),
        ("ArrowLeft", 1),
    ):
        page.keyboard.press(key)
        assert page.evaluate(active).startswith(f"Scene {scene}, ")
        assert page.locator(f"#scene-{scene} .m2s-similar").count() == 1
    page.keyboard.press("Tab")  # leaves the timeline: it is one stop
    assert page.evaluate(active).startswith("Scene 1 ")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "m2s-match"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "m2s-scene"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@needs_browser
@pytest.mark.slow
def test_names_that_are_html_and_single_scenes_do_no_harm(open_page, exported, index, tmp_path):
    page = open_page(renamed(index, tmp_path, NASTY), 390)
    assert page.title() == NASTY and page.locator("h1").inner_text() == NASTY
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page = open_page(exported["short"])
    page.locator(".m2s-scene").click()
    assert page.locator(".m2s-similar").inner_text() == "This film has no other scene."
