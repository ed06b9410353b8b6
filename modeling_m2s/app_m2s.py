"""`m2s app`: a page where visitors drop a film, see its scenes, and find scenes like one of them.

Gradio makes the page. One more route serves films and keyframes; its addresses contain the visit's secret. The page
loads nothing from other servers: it uses the system's fonts, Gradio's analytics are off, and a header forbids other
addresses.
"""

import asyncio
import multiprocessing
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .app_films_m2s import AppError, FilmPage, Visit
from .app_html_m2s import EMPTY, HEADER, HINT, PLAYER, about, error, film_view, progress, scene_view, tag_list
from .pipeline_m2s import SceneEmbeddingPipeline
from .pretrained_m2s import model_name
from .shot_store_m2s import WORKER_MODULES
from .workers_m2s import warm_up

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
try:
    import fastapi
    import gradio
    import uvicorn
    from starlette.responses import FileResponse, Response
except ImportError as missing:
    raise ImportError(f"the page needs more packages: pip install 'movies2scenes[app]' ({missing})") from missing

PAGE_FILES = Path(__file__).resolve().parent / "app_page"
OWN_ONLY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
VIDEO_TYPES = {".webm": "video/webm", ".mkv": "video/x-matroska", ".ogv": "video/ogg", ".mov": "video/quicktime"}
SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
# Gradio stores equal uploads once, so an upload cannot be deleted with its visitor: another visitor may be using it.
UPLOADS_KEPT_SECONDS = 3600
MAX_SHOTS_PER_SCENE = 20
MAX_DROPS = 30  # films in `FilmPage.add_film`; more wait in Gradio's queue (Gradio answers 40 requests at a time)


@dataclass(frozen=True)
class AppSettings:
    """Settings of the page: indexes, example films, a probe, and limits for dropped films.

    Args:
        indexes: folders that `m2s embed` wrote.
        examples: films that visitors can try with a click.
        probe: a folder that `eval.probe --export` saved.
        shots_per_scene: shots in a scene of dropped films; by default as in the first index, or nine without one.
        max_upload: size of the largest file to accept, such as "500mb"; by default any.
    """

    indexes: Sequence[Path] = ()
    examples: Sequence[Path] = ()
    probe: Path | None = None
    shots_per_scene: int | None = None
    max_upload: str | None = None


def serve(
    pipeline: SceneEmbeddingPipeline,
    revision: str,
    settings: AppSettings,
    host: str = "127.0.0.1",
    port: int = 7860,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until it is interrupted, then delete what visitors dropped.

    Args:
        pipeline: the encoder for dropped films.
        revision: revision of the encoder's weights.
        host, port: where to listen; port 0 takes a free one.
        ready: called with the page's address.

    Raises:
        AppError: an example is missing, `max_upload` is no size, the address is taken, the probe cannot be used, or
            this is a worker process. Workers import the script that started them and would each start a page.
        StorageError: an index is not finished or belongs to another encoder.
    """
    if multiprocessing.current_process().name != "MainProcess":  # `parent_process` is not set yet in a worker's import
        raise AppError('a worker process serves no page; start it under `if __name__ == "__main__":` in your script')
    for example in settings.examples:
        if not example.is_file():
            raise AppError(f"--example {example}: no such file")
    if settings.max_upload and not re.fullmatch(r"\d+ *[kmgt]?b", settings.max_upload, re.IGNORECASE):
        raise AppError(f'--max-upload {settings.max_upload}: not a number with a unit, as in "500mb"')
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as reason:
        why = getattr(reason, "strerror", None) or reason
        raise AppError(f"cannot listen at {host}, port {port} ({why}); choose another by --port") from reason
    warm_up(WORKER_MODULES)
    with listener, tempfile.TemporaryDirectory(prefix="m2s-app-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "uploads"))
        page = FilmPage(
            Path(folder, "visits"), pipeline, revision, settings.indexes, settings.probe, settings.shots_per_scene
        )
        server = uvicorn.Server(
            uvicorn.Config(build_app(page, settings), log_level="warning", timeout_graceful_shutdown=1)
        )
        if ready:
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listener.getsockname()[1]}")
        try:
            server.run(sockets=[listener])
        finally:  # the server's end closes `add_film`; a film in progress must stop writing before its folder goes
            page.embedding.acquire(timeout=10)


def build_app(page: FilmPage, settings: AppSettings) -> fastapi.FastAPI:
    """The page with the routes of films and keyframes, as a web application."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def own_addresses_only(request: fastapi.Request, answer: Callable) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = OWN_ONLY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"  # addresses hold a visit's secret
        return response

    @app.get("/media/{token}/{number}/{name}")
    def media(token: str, number: int, name: str) -> Response:
        return serve_media(page.by_token, token, number, name)

    colors = gradio.themes.Base(
        font=SYSTEM_FONTS, font_mono=["ui-monospace", "monospace"], primary_hue=gradio.themes.colors.cyan
    )
    return gradio.mount_gradio_app(
        app,
        build_page(page, settings),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=settings.max_upload,
        theme=colors,
        css_paths=PAGE_FILES / "page.css",
    )


def serve_media(visits: Mapping[str, Visit], token: str, number: int, name: str) -> Response:
    """A response with a film's file (browsers ask for ranges) or with keyframe `SHOT.jpg`; 404 if it is not part of the
    visit.
    """
    keep = {"Cache-Control": "private, max-age=3600"}
    visit = visits.get(token)
    if visit and 0 <= number < len(visit.films):
        visit.seen = time.monotonic()
        film = visit.films[number]
        if name == "film" and film.path and film.path.is_file():
            kind = VIDEO_TYPES.get(film.path.suffix.lower(), "video/mp4")
            return FileResponse(film.path, media_type=kind, headers=keep, content_disposition_type="inline")
        shot = name.removesuffix(".jpg")
        if shot.isascii() and shot.isdigit() and (jpeg := film.keyframe(int(shot))):
            return Response(jpeg, media_type="image/jpeg", headers=keep)
    return Response("not here", 404)


def build_page(page: FilmPage, settings: AppSettings) -> gradio.Blocks:
    """The page's parts and what happens when they are used."""
    script = (PAGE_FILES / "page.js").read_text()
    # With its default trigger mode, Gradio drops a click or a film while it answers an earlier one.
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}
    with gradio.Blocks(
        title="Movies2Scenes", analytics_enabled=False, delete_cache=(UPLOADS_KEPT_SECONDS, UPLOADS_KEPT_SECONDS)
    ) as blocks:
        gradio.HTML(HEADER)
        with gradio.Row(elem_classes="m2s-row"):
            upload = gradio.File(label="Drop a film", height=130, elem_id="m2s-drop", scale=3)
            with gradio.Column(scale=2, min_width=240):
                films = gradio.Dropdown(label="Film", choices=[], visible=False, elem_id="m2s-films")
                examples = [gradio.Button(f"Try {path.stem}", size="sm") for path in settings.examples]
                with gradio.Accordion("Settings", open=False):
                    length = gradio.Slider(
                        1,
                        max(MAX_SHOTS_PER_SCENE, page.scene_settings.shots_per_scene),
                        page.scene_settings.shots_per_scene,
                        step=1,
                        label="Shots per scene, for films that you drop",
                    )
                    across = gradio.Checkbox(label="Similar scenes of other films only")
        status = gradio.HTML()
        with gradio.Row(elem_classes="m2s-row"):
            with gradio.Column(scale=6, min_width=320):
                film_part = gradio.HTML(EMPTY, js_on_load=script, elem_id="m2s-film")
            with gradio.Column(scale=5, min_width=320, visible=False, elem_classes="m2s-side") as side:
                gradio.HTML(PLAYER)
                scene_part = gradio.HTML(js_on_load=script, elem_id="m2s-scene")
        gradio.HTML(about(model_name(page.pipeline.model.config.name_or_path), page.probe is not None))
        views = [films, film_part, side, scene_part]

        def open_page(request: gradio.Request) -> list[Any]:
            visit = page.visit(str(request.session_hash))
            return show(page, visit, 0) if visit.films else [gradio.skip()] * 4

        def choose_film(number: int, request: gradio.Request) -> list[Any]:
            try:
                return ["", *show(page, page.visit(str(request.session_hash)), number)]
            except AppError as reason:
                return [error(str(reason)), *[gradio.skip()] * 4]

        def pick(event: gradio.EventData, only_others: bool, request: gradio.Request) -> list[Any]:
            visit, number = page.visit(str(request.session_hash)), int(event.film)
            try:
                films, film_part, *rest = show(page, visit, number, int(event.scene), only_others)
            except AppError as reason:
                return [error(str(reason)), *[gradio.skip()] * 4]
            # The view of a long film is half a megabyte. It is not sent again: the page marks the chosen scene itself.
            is_shown = event.shown == f"{visit.token}/{number}"
            return ["", films, gradio.skip() if is_shown else film_part, *rest]

        async def drop(path: str | None, shots_per_scene: float, request: gradio.Request) -> AsyncIterator[list[Any]]:
            if path is None:
                return
            visit = page.visit(str(request.session_hash))
            async with aclosing(add_film(page, visit, Path(path), int(shots_per_scene))) as steps:
                async for step in steps:
                    if isinstance(step, int):
                        yield [None, "", *await asyncio.to_thread(show, page, visit, step)]
                    else:
                        is_last = "m2s-error" in step
                        yield [None if is_last else gradio.skip(), step, *[gradio.skip()] * 4]

        def leave(request: gradio.Request) -> None:
            page.leave(str(request.session_hash))

        blocks.load(open_page, None, views, **hidden)
        blocks.unload(leave)
        films.input(choose_film, films, [status, *views], **hidden)
        for part in (film_part, scene_part):
            part.pick(pick, across, [status, *views], **hidden)
        drops = {**hidden, "concurrency_limit": MAX_DROPS}
        upload.upload(drop, [upload, length], [upload, status, *views], **drops)
        for button, example in zip(examples, settings.examples, strict=True):
            path = gradio.State(str(example.resolve()))
            button.click(drop, [path, length], [upload, status, *views], **drops)
    blocks.queue(default_concurrency_limit=8, api_open=False)
    return blocks


def show(
    page: FilmPage, visit: Visit, number: int, scene_number: int | None = None, only_others: bool = False
) -> list[Any]:
    """New contents of the page's parts: the list of films, the film, the side's visibility, the chosen scene."""
    film_part = film_view(visit, number, scene_number)
    choices = [(film.title, at) for at, film in enumerate(visit.films)]
    films = gradio.Dropdown(choices=choices, value=number, visible=len(choices) > 1)  # type: ignore[arg-type]
    if scene_number is None:
        return [films, film_part, gradio.Column(visible=True), HINT]
    matches = visit.similar(number, scene_number, films="across" if only_others else "all")
    tags = ""
    if page.probe:
        vector = visit.film(number).index.vectors[visit.scene(number, scene_number).row]
        tags = tag_list(page.probe.tags(vector))
    return [films, film_part, gradio.Column(visible=True), scene_view(visit, number, scene_number, matches, tags)]


async def add_film(page: FilmPage, visit: Visit, path: Path, shots_per_scene: int) -> AsyncGenerator[str | int, None]:
    """Embed a dropped film.

    Yields:
        The film's progress as HTML; at the end the film's number, or the reason for the failure as HTML. Closing the
        iterator ends the embedding.
    """
    loop, has_left = asyncio.get_running_loop(), threading.Event()
    steps: asyncio.Queue[tuple[str, float] | int | str] = asyncio.Queue()

    def put(step: tuple[str, float] | int | str) -> None:
        with suppress(RuntimeError):  # the page has ended, and the loop with it
            loop.call_soon_threadsafe(steps.put_nowait, step)

    def report(stage: str, share: float) -> None:
        if has_left.is_set():
            raise AppError(f"{path.name}: the visitor has left")
        put((stage, share))

    def work() -> None:
        try:
            put(page.add_film(visit, path, shots_per_scene, report))
        except AppError as reason:
            put(str(reason))
        except Exception as reason:
            put(f"{path.name}: cannot be embedded ({type(reason).__name__})")
            raise

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            step = await steps.get()
            while isinstance(step, tuple) and not steps.empty():  # only the newest is worth showing
                step = steps.get_nowait()
            if isinstance(step, int):
                yield step
                return
            if isinstance(step, str):
                yield error(step)
                return
            yield progress(path.stem, *step)
    finally:  # Gradio closes the generator when the visitor has left
        has_left.set()
