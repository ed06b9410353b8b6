"""The page of `m2s app`: its functions; in a browser, uploads, search, a broken file, two visitors, a narrow screen."""

import asyncio
import configparser
import contextlib
import gc
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import gradio
import httpx
import numpy as np
import pytest
import torch
import uvicorn
from make_videos import make_video

from m2s.main import main
from m2s.shared import load_pipeline
from modeling_m2s import M2SSceneForClassification, app_films_m2s, app_m2s
from modeling_m2s.app_films_m2s import AppError, FilmPage, PageFilm
from modeling_m2s.app_html_m2s import error, film_view, progress, scene_view, tag_list
from modeling_m2s.app_m2s import AppSettings, add_film, build_app, build_page, serve, serve_media
from modeling_m2s.scene_space_m2s import SceneSpace
from modeling_m2s.search_m2s import SceneIndex
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
    flags = ["--model", str(tiny_folder), "--shots-per-scene", "3", "--scene-vector", "joint", "--output", str(output)]
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
    vectors, query = film.index.points, film.scenes[1]
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


def test_scenes_of_several_indexes_are_compared_in_one_space(index, encoder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(index, other)
    page = FilmPage(tmp_path / "visits", *encoder, [index, other])
    matches = page.visit("a").similar(0, 1, top=50)
    assert matches[0].film == 2 and matches[0].similarity == pytest.approx(1)  # the same scene in the copy
    vectors = np.concatenate([film.index.vectors for film in page.films[::2]])
    space = SceneSpace.fit(vectors, "whitened")
    query = space.apply(page.films[0].index.vectors[page.films[0].scenes[1].row])
    expected = sorted(np.linalg.norm(space.apply(vectors) - query, axis=1))[1:]
    assert [match.scene.distance for match in matches] == pytest.approx(expected, abs=1e-5)
    page.visit("b").similar(0, 1)
    assert page.visit("a").points is page.visit("b").points is page.points
    dropped = SceneIndex(other)
    page.visit("b").films += [replace(film, index=dropped) for film in page.films[:2]]
    page.visit("b").similar(0, 1)
    assert [len(page.visit(name).points) for name in "ab"] == [2, 3]


def test_indexes_with_vectors_of_another_kind_are_refused(index, encoder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(index, other)
    record = json.loads((other / "scene_embeddings/m2s.json").read_text())
    record["settings"]["scene_vector"] = "mean"
    (other / "scene_embeddings/m2s.json").write_text(json.dumps(record))
    with pytest.raises(StorageError, match="scene_vector is 'mean' there, 'joint' now"):
        FilmPage(tmp_path / "visits", *encoder, [index, other])


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


def test_a_visit_ends_when_nothing_was_asked_for_during_the_grace(page, monkeypatch):
    """The page says once that it was closed; whoever comes back and leaves again must not stay forever."""
    clock, timers = SimpleNamespace(now=0.0), []

    def start_timer(seconds: float, function, arguments: tuple) -> SimpleNamespace:
        timers.append((seconds, function, arguments))
        return SimpleNamespace(start=lambda: None)

    def ring() -> None:
        seconds, function, arguments = timers.pop()
        clock.now += seconds
        function(*arguments)

    for module in (app_films_m2s, app_m2s):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(app_films_m2s, "threading", SimpleNamespace(Timer=start_timer))
    visit = page.visit("a")
    visit.folder.mkdir(parents=True)
    page.leave("a", grace=600)
    clock.now = 100
    assert page.visit("a") is visit
    page.leave("a", grace=600)
    assert [seconds for seconds, *_ in timers] == [600]
    timers[:] = [(500, *timers[0][1:])]
    ring()
    assert page.visits["a"] is visit and [seconds for seconds, *_ in timers] == [100]
    clock.now = 650
    serve_media(page.by_token, visit.token, 0, "0.jpg")
    timers[:] = [(50, *timers[0][1:])]
    ring()
    assert page.visits["a"] is visit and visit.folder.exists() and [seconds for seconds, *_ in timers] == [550]
    ring()
    assert clock.now == 1250 and page.visits == page.by_token == {} and not visit.folder.exists() and timers == []


def test_one_name_is_one_visit_however_many_requests_come_at_once(page):
    both_inside = threading.Barrier(2, timeout=1)

    class SlowFilms(list):
        def __iter__(self):
            with contextlib.suppress(threading.BrokenBarrierError):
                both_inside.wait()
            return super().__iter__()

    page.films = SlowFilms(page.films)
    visits = []
    threads = [threading.Thread(target=lambda: visits.append(page.visit("a"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert visits[0] is visits[1] and len(page.by_token) == 1


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
    assert stages[:2] == ["waiting", "opening"] and "waiting for another film" in progress("a", "waiting", 0)


def embed_forever(films, output, *settings, report) -> None:
    """In place of `embed_films`: writes small files, and reports, until the report raises."""
    output.mkdir()
    number = 0
    while True:
        number += 1
        Path(output, str(number)).touch()
        time.sleep(0.01)
        report("", "shots", 0.5)


@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_film_whose_visitor_has_left_is_given_up(is_waiting, page, tmp_path, monkeypatch):
    monkeypatch.setattr(app_films_m2s, "embed_films", embed_forever)
    visit, path = page.visit("a"), tmp_path / "film.mp4"
    path.touch()
    if is_waiting:
        page.embedding.acquire()

    async def leave() -> str:
        steps = add_film(page, visit, path, 3)
        async with contextlib.aclosing(steps):
            return await anext(steps)

    assert ("waiting" in asyncio.run(leave())) == is_waiting
    wait_until(lambda: visit.folder.exists() and not list(visit.folder.iterdir()))
    assert page.embedding.locked() == is_waiting and len(visit.films) == len(page.films)


def test_a_film_that_cannot_be_stored_is_refused_without_naming_a_place(page, tmp_path, monkeypatch):
    def embed_on_full_disk(films, output, *_, **__):
        raise StorageError(f"{output}: cannot be written (No space left on device)")

    visit, path = page.visit("a"), tmp_path / "film.mp4"
    with pytest.raises(AppError) as refusal:  # there is nothing to copy
        page.add_film(visit, path)
    path.touch()
    monkeypatch.setattr(app_films_m2s, "embed_films", embed_on_full_disk)
    with pytest.raises(AppError) as second:
        page.add_film(visit, path)
    assert str(refusal.value) == str(second.value) == "film.mp4: this server cannot store it; its disk may be full"
    assert list(visit.folder.iterdir()) == [] and not page.embedding.locked()


def test_a_film_is_cut_as_the_index_is_unless_its_visitor_asks_for_another_length(page, tmp_path, monkeypatch):
    used = []

    def note_settings(films, output, pipeline, shot_settings, scene_settings, report):
        used.append((scene_settings.shots_per_scene, scene_settings.stride))
        raise AppError("noted")

    monkeypatch.setattr(app_films_m2s, "embed_films", note_settings)
    page.scene_settings = replace(page.scene_settings, shots_per_scene=3, stride=1)
    (tmp_path / "film.mp4").touch()
    for length in (None, 3, 4):
        with pytest.raises(AppError, match="noted"):
            page.add_film(page.visit("a"), tmp_path / "film.mp4", length)
    assert used == [(3, 1), (3, 1), (4, 4)]


def test_an_index_makes_the_page_give_out_videos_only(index, encoder, tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")

    class ForgedIndex(app_films_m2s.SceneIndex):
        def __init__(self, folder):
            super().__init__(folder)
            self.films["alpha"].facts["video"] = str(secret)

    monkeypatch.setattr(app_films_m2s, "SceneIndex", ForgedIndex)
    page = FilmPage(tmp_path / "visits", *encoder, [index])
    assert {film.movie_id: film.path is None for film in page.films} == {"alpha": True, NASTY: False}
    number = [film.movie_id for film in page.films].index("alpha")
    assert serve_media(page.by_token, page.visit("a").token, number, "film").status_code == 404


def test_more_like_this_plays_the_scene_that_it_asks_for(page):
    visit = page.visit("a")
    parsed = Parsed(scene_view(visit, 0, 0, visit.similar(0, 0)))
    buttons = [each for _, each in parsed.elements if each.get("class") == "m2s-more"]
    assert {button["data-pick"].split(":")[0] for button in buttons} == {"0", "1"}
    for button in buttons:
        film, scene = map(int, button["data-pick"].split(":"))
        assert button["data-play"] == f"media/{visit.token}/{film}/film"
        assert button["data-start"] == f"{visit.scene(film, scene).start_seconds:.3f}"


def test_fewer_shots_per_scene_are_advised_for_windows_only(page):
    visit = page.visit("a")
    assert "film, or this one again with fewer shots per scene (Settings)." in scene_view(visit, 0, 0, [])
    visit.film(0).index.record["settings"]["scenes"] = "story"
    assert "Drop another film.</p>" in scene_view(visit, 0, 0, [])


def handlers(page) -> dict:
    """The page's functions by name."""
    return {function.name: function.fn for function in build_page(page, AppSettings()).fns.values()}


def test_a_click_sends_the_film_only_where_it_is_not_shown(page):
    visit, pick = page.visit("a"), handlers(page)["pick"]
    request = SimpleNamespace(session_hash="a")
    for shown, is_sent in ((f"{visit.token}/0", False), (f"{visit.token}/1", True), ("an earlier visit's/0", True)):
        event = gradio.EventData(None, {"film": 0, "scene": 1, "shown": shown})
        message, _, film_part, _, scene_part = pick(event, False, request)
        assert (film_part == film_view(visit, 0, 1)) == is_sent and (film_part == gradio.skip()) != is_sent
        assert message == "" and "This scene" in scene_part
    assert f'data-shown="{visit.token}/0"' in film_view(visit, 0)


def test_a_film_that_is_no_longer_here_is_explained(page):
    choose_film, request = handlers(page)["choose_film"], SimpleNamespace(session_hash="a")
    message, *views = choose_film(99, request)
    assert "no longer here" in message and views == [gradio.skip()] * 4
    message, _, film_part, *_ = choose_film(1, request)
    assert message == "" and film_part == film_view(page.visit("a"), 1)


def test_no_click_is_dropped_while_another_is_answered(page):
    functions = build_page(page, AppSettings()).fns.values()
    modes = {function.name: function.trigger_mode for function in functions if function.name != "leave"}
    assert set(modes) == {"open_page", "choose_film", "pick", "drop"} and set(modes.values()) == {"multiple"}


def test_the_slider_takes_its_own_value(page):
    page.scene_settings = replace(page.scene_settings, shots_per_scene=30)
    blocks = build_page(page, AppSettings()).blocks.values()
    slider = next(block for block in blocks if isinstance(block, gradio.Slider))
    assert slider.preprocess(slider.value) == 30


@pytest.fixture
def served(page, tmp_path, monkeypatch):
    """A client of the page, which a thread serves."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.1")
    server = uvicorn.Server(uvicorn.Config(build_app(page, AppSettings()), log_level="warning"))
    server.config.timeout_graceful_shutdown = 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def test_every_answer_forbids_other_addresses_and_films_come_in_parts(served, page):
    film = f"/media/{page.visit('a').token}/0/film"
    for address in ("/", "/config", film, "/media/guess/0/film", "/nothing"):
        headers = served.get(address).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self';"), address
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    part = served.get(film, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == page.films[0].path.read_bytes()[100:200]


def test_a_page_that_is_closed_is_left(served, page):
    visit = page.visit("a")
    with served.stream("GET", "/gradio_api/heartbeat/a") as heartbeat:
        lines = heartbeat.iter_lines()  # kept, since its end closes the connection
        next(lines)
        assert not visit.is_leaving
    wait_until(lambda: visit.is_leaving)


def ask(client, event: str, data: list, session: str) -> None:
    """What the browser asks for an event that one part of the page alone has."""
    parts = client.get("/config").json()["dependencies"]
    number = next(part["id"] for part in parts if part["targets"][0][1] == event)
    request = {"data": data, "fn_index": number, "session_hash": session}
    client.post("/gradio_api/queue/join", json=request).raise_for_status()


def upload(client, path: Path) -> list:
    """The inputs of the event by which a film is dropped; scenes are to span three shots."""
    stored = client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()[0]
    return [{"path": stored, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}, 3]


def answers(client, session: str):
    return client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session})


def test_films_that_wait_do_not_hold_up_the_page_and_one_whose_visitor_left_is_given_up(
    served, page, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(app_films_m2s, "embed_films", embed_forever)
    path = tmp_path / "film.mp4"
    path.write_bytes(b"film")
    dropped = upload(served, path)
    ask(served, "upload", dropped, "first")
    with answers(served, "first") as first:
        lines = first.iter_lines()  # kept, since its end closes the connection
        assert any("finding shots" in line for line in lines)
        for number in range(50):  # more than Gradio answers at a time
            ask(served, "upload", dropped, f"visitor {number}")
        wait_until(lambda: sum(visit.folder.exists() for visit in page.visits.values()) >= app_m2s.MAX_DROPS)
        assert served.get(f"/media/{page.visit('first').token}/0/0.jpg").status_code == 200
        ask(served, "load", [], "another")
        with answers(served, "another") as clicked:
            assert any("m2s-timeline" in line for line in clicked.iter_lines())

    def was_missed() -> bool:
        gc.collect()  # asyncio tells of errors in forgotten tasks then
        return "async generator ignored GeneratorExit" in caplog.text

    folder = page.visits["first"].folder
    wait_until(lambda: not list(folder.iterdir()) or was_missed(), 60)
    if list(folder.iterdir()):
        pytest.xfail("Gradio missed the end of a connection that it was just writing to")


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
    from m2s.app import run as run_app
    from m2s.main import build_parser

    options = build_parser().parse_args(module.arguments(tmp_path))
    assert options.run is run_app and options.indexes == options.example == []
    (tmp_path / "index").mkdir()
    (tmp_path / "films").mkdir()
    for name in ("a b.mp4", "README.md", ".gitattributes", "._a b.mp4"):
        (tmp_path / "films" / name).touch()
    options = build_parser().parse_args(module.arguments(tmp_path))
    assert options.indexes == [tmp_path / "index"] and options.example == [tmp_path / "films/a b.mp4"]


def test_settings_that_make_no_page_are_refused(encoder, tmp_path, monkeypatch):
    with pytest.raises(AppError, match=r"--example .*nothing\.mp4: no such file"):
        serve(*encoder, AppSettings(examples=[tmp_path / "nothing.mp4"]))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AppError, match="choose another by --port"):
        serve(*encoder, AppSettings(), port=taken.getsockname()[1])
    with pytest.raises(AppError, match=r"port 99999 \(.*0-65535.*\); choose another by --port"):
        serve(*encoder, AppSettings(), port=99999)
    for size in ("500", "mb", "5 monkeys"):
        with pytest.raises(AppError, match=f"--max-upload {size}: not a number with a unit"):
            serve(*encoder, AppSettings(max_upload=size))
    monkeypatch.setattr(multiprocessing.current_process(), "name", "M2S-1")
    with pytest.raises(AppError, match=r"a worker process serves no page; .*__main__"):
        serve(*encoder, AppSettings(), port=0)


def test_the_help_names_each_default_once(capsys):
    with pytest.raises(SystemExit):
        main(["app", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "default: None" not in text and "(default: as in the first index, else 9)" in text
    assert not re.search(r"\(default[^)]*\) \(default", text)


def test_a_folder_without_an_index_is_named(tmp_path, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["app", str(tmp_path), "--port", "0"]) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert f"{tmp_path}: no index here; make one with m2s embed" in capsys.readouterr().err


# The command, with a film that is never done.
BUSY = """
import sys
from test_app import embed_forever
from modeling_m2s import app_films_m2s
from m2s.main import main

if __name__ == "__main__":
    app_films_m2s.embed_films = embed_forever
    sys.exit(main(["app", "--model", sys.argv[1], "--port", "0"]))
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_page_that_is_ended_deletes_what_visitors_dropped(end, tiny_folder, tmp_path):
    log, script, film = (tmp_path / name for name in ("log", "busy.py", "film.mp4"))
    temporary = Path(tempfile.mkdtemp())  # a short path: processes have sockets in it
    script.write_text(BUSY)
    film.write_bytes(b"film")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": paths}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, script, tiny_folder], stdout=file, stderr=file, env=environment)
    try:
        wait_until(lambda: "http" in log.read_text() or process.poll() is not None, 600)
        address = re.search(r"http://\S+", log.read_text())[0]
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            ask(client, "upload", upload(client, film), "a")
        wait_until(lambda: list(temporary.glob("m2s-app-*/visits/*/*/index/1")))
        process.send_signal(end)
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert "Traceback" not in log.read_text(), log.read_text()
    assert list(temporary.glob("m2s-app-*")) == []
    shutil.rmtree(temporary)


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
    from m2s.main import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def address(index, tiny_folder, tmp_path_factory):
    """A running page with the index opened."""
    log = tmp_path_factory.mktemp("app") / "log"
    script = log.with_name("watched.py")
    script.write_text(WATCHED)
    command = [sys.executable, script, "app", index, "--model", tiny_folder, "--port", "0", "--shots-per-scene", "3"]
    environment = {**os.environ, "TMPDIR": str(log.parent)}
    with log.open("w") as file:
        process = subprocess.Popen([*map(str, command)], stdout=file, stderr=file, cwd=ROOT, env=environment)
    try:
        wait_until(lambda: "http" in log.read_text() or process.poll() is not None, 600)
        yield re.search(r"http://\S+", log.read_text())[0]
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 0 and list(log.parent.glob("m2s-app-*")) == []
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
    heading = page.locator(".m2s-scene-view h3").first.inner_text()
    more = page.locator(".m2s-more").first
    pick, source = more.get_attribute("data-pick"), more.get_attribute("data-play")
    more.click()
    page.wait_for_selector(f'.m2s-scenes [data-pick="{pick}"][aria-pressed=true]')
    page.wait_for_function("heading => document.querySelector('.m2s-scene-view h3').innerText !== heading", arg=heading)
    assert page.locator(".m2s-player video").evaluate("video => video.src").endswith(source)


@needs_browser
@pytest.mark.slow
def test_a_film_that_cannot_be_played_shows_a_picture_again_and_again(open_page):
    page = open_page()
    page.route("**/media/*/1/film", lambda route: route.fulfill(content_type="video/mp4", body="no film"))
    shows_picture = """() => {
        const [video, picture, note] = document.querySelectorAll('.m2s-player :is(video, img, em)');
        return video.hidden && video.paused && !picture.hidden && picture.src && note.textContent;
    }"""
    matches = page.locator(".m2s-match[data-play$='/1/film']")
    cards = page.locator(".m2s-scenes .m2s-card")
    page.locator(".m2s-film summary").click()
    cards.first.click()
    for _ in range(2):
        matches.first.click()
        assert "its file is gone" in page.wait_for_function(shows_picture).json_value()
    cards.first.click()
    page.wait_for_function("!document.querySelector('.m2s-player video').paused")
    cards.nth(1).evaluate("card => card.dataset.play = ''")
    cards.nth(1).click()
    assert "not on this server" in page.wait_for_function(shows_picture).json_value()
    page.wait_for_selector(".m2s-scenes [data-pick='0:1'][aria-pressed=true]")
    assert page.locator(".m2s-film details").evaluate("details => details.open")


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
