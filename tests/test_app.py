"""The page of `m2s app`: its functions; in a browser, uploads, search, a broken file, two visitors, a narrow screen."""

import configparser
import importlib.util
import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from make_videos import make_video

from modeling_m2s import M2SSceneForClassification
from modeling_m2s.app_films_m2s import AppError, FilmPage, PageFilm
from modeling_m2s.app_html_m2s import error, film_view, progress, scene_view, tag_list
from modeling_m2s.app_m2s import AppSettings, serve, serve_media
from modeling_m2s.cli import load_pipeline, main
from modeling_m2s.storage_m2s import StorageError

ROOT = Path(__file__).parent.parent
NASTY = "<img src=x onerror=alert(1)> ${alert(2)} {{value}} '\"&"


@pytest.fixture(scope="module")
def index(tiny_folder, tmp_path_factory) -> Path:
    """Two films of 12 and 7 shots in scenes of three; one has a name that is HTML."""
    folder = tmp_path_factory.mktemp("films")
    make_video(folder / "alpha.mp4", [20] * 12, seed=1)
    make_video(folder / f"{NASTY}.mp4", [20] * 7, seed=2)
    output = tmp_path_factory.mktemp("index") / "out"
    flags = ["--model", str(tiny_folder), "--shots-per-scene", "3", "--output", str(output)]
    assert main(["embed", str(folder), *flags]) == 0
    return output


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return load_pipeline(str(tiny_folder), "cpu", "float32")


@pytest.fixture
def page(index, encoder, tmp_path) -> FilmPage:
    return FilmPage(tmp_path / "visits", *encoder, [index])


class Parsed(HTMLParser):
    """A page's elements and text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_similar_scenes_are_ranked_by_distance_and_never_the_scene_itself(page):
    visit = page.visit("a")
    matches = visit.similar(0, 1, top=50)
    film = visit.films[0]
    vectors, query = film.index.vectors, film.scenes[1]
    distances = {
        (at, k): float(np.sqrt(((vectors[scene.row] - vectors[query.row]) ** 2).sum()))
        for at, other in enumerate(visit.films)
        for k, scene in enumerate(other.scenes)
        if (at, k) != (0, 1)
    }
    assert [(match.film, match.number) for match in matches] == sorted(distances, key=distances.get)
    similarities = [match.similarity for match in matches]
    assert similarities == sorted(similarities, reverse=True) and similarities[0] < 1
    squares = [((a - b) ** 2).sum() for a in vectors for b in vectors]
    expected = [1 - distance**2 / np.mean(squares) for distance in sorted(distances.values())]
    assert similarities == pytest.approx(expected, abs=1e-3)
    assert {match.film for match in visit.similar(0, 1, films="across")} == {1}


def test_titles_are_text_and_never_elements(page):
    visit = page.visit("a")
    film = next(at for at, film in enumerate(visit.films) if film.movie_id == NASTY)
    tags = tag_list([("<b>label</b>", 0.5)])
    views = [
        film_view(visit, film),
        scene_view(visit, film, 0, visit.similar(film, 0), tags),
        scene_view(visit, 1 - film, 0, visit.similar(1 - film, 0)),
        error(f"{NASTY}.mp4: broken"),
        progress(NASTY, "shots", 0.5),
    ]
    for view in views:
        parsed = Parsed(view)
        assert NASTY in parsed.text
        assert not [each for _, each in parsed.elements if "onerror" in each or each.get("src") == "x"]
    assert "<b>label</b>" in Parsed(views[1]).text


def test_a_film_shows_all_its_scenes_and_shots(page):
    visit = page.visit("a")
    parsed = Parsed(film_view(visit, 1, chosen=2))
    picks = [each["data-pick"] for _, each in parsed.elements if "data-pick" in each]
    assert picks == [f"1:{k}" for k in range(4)] * 2
    pressed = [each["data-pick"] for _, each in parsed.elements if each.get("aria-pressed") == "true"]
    assert pressed == ["1:2", "1:2"]
    starts = [each["data-start"] for _, each in parsed.elements if "data-start" in each]
    assert starts == [f"{60 * k / 24:.3f}" for k in range(4)] + [f"{20 * k / 24:.3f}" for k in range(12)]
    assert "12 shots · 4 scenes" in parsed.text


def test_media_are_those_of_the_visit_alone(page, tmp_path):
    ours, theirs = page.visit("a"), page.visit("b")
    own = make_video(tmp_path / "own.mp4", [20] * 4, seed=3)
    number = page.add_film(ours, own, shots_per_scene=2)
    own.unlink()
    assert [film.title for film in ours.films][number:] == ["own"] and len(theirs.films) == number
    ask = lambda visit, film, name: serve_media(page.by_token, visit, film, name).status_code  # noqa: E731
    for name in ("film", "0.jpg", "3.jpg"):
        assert ask(ours.token, number, name) == 200
        assert ask(theirs.token, number, name) == ask("guess", number, name) == ask(ours.token, -1, name) == 404
    for name in ("4.jpg", "-1.jpg", "../film", "..%2f..%2fetc", "²", "", "film.mp4"):
        assert ask(ours.token, number, name) == 404, name
    again = page.add_film(ours, make_video(own, [20] * 2, seed=4))
    assert ours.films[again].title == "own (2)"
    page.leave("a", grace=0)
    wait_until(lambda: not ours.folder.exists())
    assert ask(ours.token, 0, "0.jpg") == 404 and page.visit("a") is not ours and ask(theirs.token, 0, "0.jpg") == 200


def wait_until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_visitor_who_comes_back_in_time_keeps_the_films(page):
    visit = page.visit("a")
    page.leave("a", grace=0.2)
    assert page.visit("a") is visit
    time.sleep(0.6)
    assert page.visit("a") is visit


@pytest.mark.parametrize("name", ["broken.mp4", f"{NASTY}.mp4", "..%2f..%2fescape.mp4", "no suffix"])
def test_a_file_that_is_no_film_is_refused_in_a_sentence_without_its_place(name, page, tmp_path):
    visit = page.visit("a")
    path = tmp_path / name
    path.write_bytes(b"this is no film" * 100)
    with pytest.raises(AppError) as refusal:
        page.add_film(visit, path)
    message = str(refusal.value)
    assert message.startswith(name) and "not a readable video" in message and str(tmp_path) not in message
    assert len(visit.films) == 2 and list(visit.folder.iterdir()) == []


def test_a_film_that_waits_for_another_says_so(page, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no film")
    stages = []

    def report(stage: str, _: float) -> None:
        stages.append(stage)
        if stage == "waiting":
            page.embedding.release()

    page.embedding.acquire()
    with pytest.raises(AppError, match="not a readable video"):
        page.add_film(page.visit("a"), path, report=report)
    assert stages[:2] == ["waiting", "opening"] and "waits for another" in progress("a", "waiting", 0)


def test_scenes_that_are_not_there_are_refused(page):
    visit = page.visit("a")
    for film, scene in ((2, 0), (-1, 0), (0, 99), (0, -1)):
        with pytest.raises(AppError, match="no longer here"):
            visit.scene(film, scene)


def test_a_film_whose_file_is_gone_is_shown_without_playing(page):
    visit = page.visit("a")
    film = visit.films[0]
    visit.films[0] = PageFilm(film.index, film.movie_id, film.title, None)
    assert {each["data-play"] for _, each in Parsed(film_view(visit, 0)).elements if "data-play" in each} == {""}
    assert serve_media(page.by_token, visit.token, 0, "film").status_code == 404


def test_an_index_of_another_encoder_is_refused(index, encoder, tmp_path):
    with pytest.raises(StorageError, match=r"revision is .* there, 'another' now"):
        FilmPage(tmp_path, encoder[0], "another", [index])
    with pytest.raises(StorageError, match="no index here"):
        FilmPage(tmp_path, *encoder, [tmp_path])


def test_tags_are_those_of_the_saved_probe(page, index, encoder, tmp_path):
    pipeline, revision = encoder
    config = pipeline.model.config.__class__(**pipeline.model.config.to_dict())
    config.id2label, config.problem_type = {0: "park", 1: "beach", 2: "street"}, "single_label_classification"
    model = M2SSceneForClassification(config).eval()
    model.scene_model.load_state_dict(pipeline.model.state_dict())
    model.save_pretrained(tmp_path / "probe")
    probe = FilmPage(tmp_path, pipeline, revision, [index], tmp_path / "probe").probe
    vector = page.films[0].index.vectors[0]
    with torch.no_grad():
        expected = model.classifier(torch.from_numpy(vector)[None])[0].softmax(0)
    tags = probe.tags(vector, top=2)
    assert [label for label, _ in tags] == [config.id2label[int(k)] for k in expected.argsort(descending=True)[:2]]
    assert [value for _, value in tags] == pytest.approx(expected.sort(descending=True).values[:2].tolist())
    with torch.no_grad():
        model.scene_model.visual_projection.weight.add_(1)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(AppError, match="another encoder"):
        FilmPage(tmp_path, pipeline, revision, [index], tmp_path / "other")
    with pytest.raises(AppError, match=r"nowhere: no probe that eval\.probe --export saved"):
        FilmPage(tmp_path, pipeline, revision, [index], tmp_path / "nowhere")


def test_the_space_asks_for_what_the_library_asks_for():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    wanted = f"{parser['options']['install_requires']}\n{extras['video']}\n{extras['app']}".split("\n")
    listed = (ROOT / "model_cards/space/requirements.txt").read_text().splitlines()[1:]
    assert listed == [line for line in wanted if line and not line.startswith("movies2scenes")]
    version = re.search(r"^sdk_version: ([\d.]+)$", (ROOT / "model_cards/space/README.md").read_text(), re.MULTILINE)[1]
    assert f"gradio=={version}\n" in (ROOT / "constraints.txt").read_text()


def test_the_space_opens_what_lies_beside_it(tmp_path):
    spec = importlib.util.spec_from_file_location("space_app", ROOT / "model_cards/space/app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from modeling_m2s.cli import build_parser, run_app

    options = build_parser().parse_args(module.arguments(tmp_path))
    assert options.run is run_app and options.indexes == options.example == []
    (tmp_path / "index").mkdir()
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a b.mp4").touch()
    options = build_parser().parse_args(module.arguments(tmp_path))
    assert options.indexes == [tmp_path / "index"] and options.example == [tmp_path / "films/a b.mp4"]


def test_settings_that_make_no_page_are_refused(encoder, tmp_path, monkeypatch):
    import socket

    with pytest.raises(AppError, match=r"--example .*nothing\.mp4: no such file"):
        serve(*encoder, AppSettings(examples=[tmp_path / "nothing.mp4"]))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AppError, match="choose another by --port"):
        serve(*encoder, AppSettings(), port=taken.getsockname()[1])
    monkeypatch.setattr(multiprocessing.current_process(), "name", "M2S-1")
    with pytest.raises(AppError, match=r"a worker process serves no page; .*__main__"):
        serve(*encoder, AppSettings(), port=0)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
# The command, in a process that tells what it connects to beyond this computer; so do its workers, which run this
# script too, as another module than `__main__`.
WATCHED = """
import socket, sys
connect = socket.socket.connect
def watched(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CALLED", address, flush=True)
        raise OSError("no network")
    return connect(self, address)
socket.socket.connect = watched
if __name__ == "__main__":
    from modeling_m2s.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def address(index, tiny_folder, tmp_path_factory):
    """A running page with the index opened."""
    log = tmp_path_factory.mktemp("app") / "log"
    script = log.with_name("watched.py")
    script.write_text(WATCHED)
    command = [sys.executable, script, "app", index, "--model", tiny_folder, "--port", "0", "--shots-per-scene", "3"]
    with log.open("w") as file:
        process = subprocess.Popen([*map(str, command)], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        wait_until(lambda: "http" in log.read_text() or process.poll() is not None, 600)
        yield re.search(r"http://\S+", log.read_text())[0]
    finally:
        process.terminate()
        process.wait(60)
    assert "CALLED" not in log.read_text() and "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the page as a new visitor; at the end, no page asked another server or had an error."""
    contexts, foreign, errors = [], [], []

    def visit(width: int = 1280, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: (errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.route(is_foreign, lambda route: route.abort())
        page.goto(address)
        page.wait_for_selector(".m2s-timeline")
        return page

    def is_foreign(url: str) -> bool:
        return not url.startswith((address, "data:", "blob:"))

    yield visit
    for context in contexts:
        context.close()
    assert foreign == [] and errors == []


def drop(page, path: Path) -> None:
    page.set_input_files("#m2s-drop input[type=file]", str(path))


@needs_browser
@pytest.mark.slow
def test_two_visitors_drop_films_and_see_only_their_own(open_page, tmp_path):
    pages = [open_page(), open_page()]
    names = ["one", "two"]
    for seed, (page, name) in enumerate(zip(pages, names, strict=True)):
        drop(page, make_video(tmp_path / f"{name}.mp4", [20] * 9, seed=7 + seed))
    for page, name, other in zip(pages, names, names[::-1], strict=True):
        page.wait_for_function(f"document.querySelector('.m2s-film h2').textContent === '{name}'")
        page.locator(".m2s-scenes .m2s-card").nth(1).click()
        page.wait_for_selector(".m2s-found")
        found = page.locator(".m2s-where > b").all_inner_texts()
        assert name in found and other not in found and "alpha" in found and NASTY in found
        page.locator("#m2s-films input").click()
        choices = page.locator("#m2s-films [role=option]").all_inner_texts()
        assert sorted(choice.replace("✓", "").strip() for choice in choices) == sorted(["alpha", NASTY, name])


@needs_browser
@pytest.mark.slow
def test_a_scene_plays_and_a_similar_one_opens_at_its_time(open_page):
    page = open_page()
    page.locator(".m2s-timeline button").nth(2).click()
    page.wait_for_selector(".m2s-found")
    page.wait_for_function("document.querySelector('.m2s-player video').currentTime >= 5")
    match = page.locator(".m2s-match").last
    start, title = float(match.get_attribute("data-start")), match.get_attribute("data-title")
    assert match.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert re.search(r"similarity -?\d\.\d\d", match.inner_text()) and re.search(
        r"[\d:.]+ – [\d:.]+", match.inner_text()
    )
    source = match.get_attribute("data-play")
    match.click()
    page.wait_for_function(
        "([source, start]) => { const video = document.querySelector('.m2s-player video');"
        "return video.src.endsWith(source) && video.readyState > 1 && video.currentTime >= start - 0.05; }",
        arg=[source, start],
    )
    assert page.locator(".m2s-player figcaption").inner_text().startswith(title)
    page.locator(".m2s-more").first.click()
    page.wait_for_selector(".m2s-found")


@needs_browser
@pytest.mark.slow
def test_a_broken_file_is_explained_and_the_page_goes_on(open_page, tmp_path):
    page = open_page()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film" * 1000)
    drop(page, broken)
    page.wait_for_selector(".m2s-error")
    text = page.locator(".m2s-error").inner_text()
    assert text.startswith("broken.mp4: not a readable video") and str(tmp_path) not in text and "/" not in text
    drop(page, make_video(tmp_path / "good.mp4", [20] * 4, seed=9))
    page.wait_for_function("document.querySelector('.m2s-film h2').textContent === 'good'")
    assert page.locator(".m2s-error").count() == 0


@needs_browser
@pytest.mark.slow
def test_nothing_overflows_a_narrow_screen(open_page):
    page = open_page(390, 844)
    page.locator(".m2s-scenes .m2s-card").first.click()
    page.wait_for_selector(".m2s-found")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 391)"
        ".map(e => e.className + e.tagName)"
    )
    assert wide == []
