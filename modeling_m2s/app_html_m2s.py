"""The parts of the page of `m2s app` as HTML. Text from others, such as a film's title, is always escaped.

Everything that can be clicked is a button. `data-pick="FILM:SCENE"` asks for scenes like this one, `data-play` is a
film's address, and `data-start` is the second at which it starts (`app_page/page.js`). `data-shown` names the film that
is shown.
"""

from collections.abc import Sequence
from html import escape

from .app_films_m2s import Match, PageFilm, Visit
from .figures_m2s import SCENE_COLORS, timecode
from .search_m2s import Scene

HEADER = """<header class="m2s-head"><h1>Movies2Scenes</h1>
<p>Drop a film, click one of its scenes, see the scenes that are like it.</p></header>"""

EMPTY = """<ol class="m2s-steps">
<li><b>Drop a film.</b> It is cut into shots; some consecutive shots are a scene.</li>
<li><b>Click a scene.</b> It plays.</li>
<li><b>See scenes like it,</b> in this film and in the others here.</li></ol>"""

HINT = '<p class="m2s-hint">Click a scene: it plays here, and the scenes that are like it appear.</p>'

PLAYER = """<figure class="m2s-player" hidden><video controls playsinline preload="metadata"></video><img alt="">
<figcaption><span></span><em></em></figcaption></figure>"""


def about(model: str, has_probe: bool) -> str:
    """The footer: the encoder, the privacy of dropped films, and a sentence on each feature that the page lacks."""
    lines = [
        f"Encoder: {escape(model)}. Nothing leaves this server.",
        "Nobody else sees what you drop. It is deleted within three hours after you leave.",
        "Search by words is not here: this encoder reads pictures only.",
    ]
    if not has_probe:
        lines.append("Tags need a trained probe (m2s app --probe).")
    return f'<footer class="m2s-about">{" ".join(lines)}</footer>'


def progress(title: str, stage: str, share: float) -> str:
    """The progress of a dropped film."""
    words = {
        "waiting": "waiting for another film",
        "opening": "opening",
        "shots": "finding shots",
        "scenes": "embedding scenes",
    }
    done = (share + (stage == "scenes")) / 2
    bar = f'<progress max="1" value="{done:.3f}"></progress>'
    return f'<div class="m2s-status" role="status"><b>{escape(title)}</b>: {words[stage]} {bar}</div>'


def error(message: str) -> str:
    """The reason why a request failed."""
    return f'<div class="m2s-status m2s-error" role="alert">{escape(message)}</div>'


def film_view(visit: Visit, number: int, chosen: int | None = None) -> str:
    """A film: its length, its scenes on a timeline and as pictures, its shots; the scene `chosen` stands out."""
    film = visit.film(number)
    facts = [timecode(film.duration_seconds), count(len(film.shots), "shot"), count(len(film.scenes), "scene")]
    scenes = "".join(_scene_card(visit, number, k, scene, k == chosen) for k, scene in enumerate(film.scenes))
    shots = "".join(_shot_card(visit, number, k) for k in range(len(film.shots)))
    return f"""<section class="m2s-film"><h2>{escape(film.title)}</h2>
<p class="m2s-faint">{" · ".join(facts)}</p>
<div class="m2s-timeline" data-shown="{visit.token}/{number}">{_timeline(film, number, chosen)}</div>
<div class="m2s-ends m2s-faint"><span>00:00:00</span><span>{timecode(film.duration_seconds)}</span></div>
<h3>Scenes</h3><div class="m2s-scenes">{scenes}</div>
<details><summary>All {count(len(film.shots), "shot")}</summary><div class="m2s-shots">{shots}</div></details>
</section>"""


def scene_view(visit: Visit, number: int, scene_number: int, matches: Sequence[Match], tags: str = "") -> str:
    """A chosen scene: its time, its shots, its tags, and the scenes similar to it."""
    film, scene = visit.film(number), visit.scene(number, scene_number)
    shots = "".join(_shot_card(visit, number, scene.first_shot + k) for k in range(scene.num_shots))
    if matches:
        found = f'<ol class="m2s-found">{"".join(_match_card(visit, match) for match in matches)}</ol>'
    else:
        is_story = film.index.record["settings"].get("scenes") == "story"  # whose scenes have any number of shots
        again = "" if is_story else ", or this one again with fewer shots per scene (Settings)"
        found = f'<p class="m2s-faint">There is no other scene here. Drop another film{again}.</p>'
    return f"""<section class="m2s-scene-view"><h3>This scene <span class="m2s-faint">{escape(film.title)},
{span(scene)}, {count(scene.num_shots, "shot")}</span></h3>{tags}<div class="m2s-strip">{shots}</div>
<h3>Similar scenes <span class="m2s-faint">1: identical; 0: no more alike than two random scenes</span></h3>
{found}</section>"""


def tag_list(tags: Sequence[tuple[str, float]]) -> str:
    """A probe's labels with their probabilities."""
    items = "".join(f"<li>{escape(label)} <small>{value:.2f}</small></li>" for label, value in tags)
    return f'<ul class="m2s-tags">{items}</ul>'


def span(scene: Scene) -> str:
    """A scene's start and end as timecodes."""
    return f"{timecode(scene.start_seconds, tenths=True)} – {timecode(scene.end_seconds, tenths=True)}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _timeline(film: PageFilm, number: int, chosen: int | None) -> str:
    """One button per scene, as wide as the time until the next scene begins, with a line at every cut."""
    pieces = []
    for k, scene in enumerate(film.scenes):
        end = film.scenes[k + 1].start_seconds if k + 1 < len(film.scenes) else scene.end_seconds
        length = max(end - scene.start_seconds, 1e-3)
        cuts = [shot.start_seconds for shot in film.shots if scene.start_seconds < shot.start_seconds < end]
        lines = "".join(f'<i style="left:{100 * (cut - scene.start_seconds) / length:.2f}%"></i>' for cut in cuts)
        style = f"flex-grow:{length:.3f};background:{SCENE_COLORS[k % len(SCENE_COLORS)]}"
        label = f"Scene {k + 1}, {span(scene)}"
        pieces.append(
            f'<button type="button" data-pick="{number}:{k}" style="{style}" title="{label}" '
            f'aria-label="{label}"{_pressed(k == chosen)}>{lines}</button>'
        )
    return "".join(pieces)


def _scene_card(visit: Visit, number: int, k: int, scene: Scene, is_chosen: bool) -> str:
    picture = _image(visit, number, visit.film(number).picture_of(scene), f"Scene {k + 1}")
    color = SCENE_COLORS[k % len(SCENE_COLORS)]
    return (
        f'<button type="button" class="m2s-card" data-pick="{number}:{k}" style="border-top-color:{color}"'
        f"{_playing(visit, number, scene.start_seconds)}{_pressed(is_chosen)}>{picture}"
        f"<b>{timecode(scene.start_seconds)}</b><small>{count(scene.num_shots, 'shot')}</small></button>"
    )


def _shot_card(visit: Visit, number: int, shot: int) -> str:
    place = visit.film(number).shots[shot]
    picture = _image(visit, number, shot if place.has_keyframe else None, f"Shot {shot + 1}")
    playing = _playing(visit, number, place.start_seconds)
    return f'<button type="button" class="m2s-card"{playing}>{picture}<b>{timecode(place.start_seconds)}</b></button>'


def _match_card(visit: Visit, match: Match) -> str:
    film, scene = visit.film(match.film), match.scene
    picture = _image(visit, match.film, film.picture_of(scene), f"{film.title}, {span(scene)}")
    width = 100 * min(max(match.similarity, 0.0), 1.0)
    return (
        f'<li><button type="button" class="m2s-match"{_playing(visit, match.film, scene.start_seconds)} '
        f'data-until="{scene.end_seconds:.3f}">{picture}'
        f'<span class="m2s-where"><b>{escape(film.title)}</b><span>{span(scene)}</span>'
        f'<span class="m2s-bar"><i style="width:{width:.1f}%"></i></span>'
        f"<small>similarity {match.similarity:.2f}</small></span></button>"
        f'<button type="button" class="m2s-more" data-pick="{match.film}:{match.number}"'
        f"{_playing(visit, match.film, scene.start_seconds)}>More like this</button></li>"
    )


def _image(visit: Visit, number: int, shot: int | None, description: str) -> str:
    if shot is None:
        return '<span class="m2s-no-picture">no picture</span>'
    return f'<img loading="lazy" src="{_address(visit, number, f"{shot}.jpg")}" alt="{escape(description)}">'


def _playing(visit: Visit, number: int, seconds: float) -> str:
    """Attributes that make a click play the film. Without a file, `data-play` is empty and the page shows a picture."""
    film = visit.film(number)
    address = _address(visit, number, "film") if film.path else ""
    return f' data-play="{address}" data-start="{seconds:.3f}" data-title="{escape(film.title)}"'


def _address(visit: Visit, number: int, name: str) -> str:
    return f"media/{visit.token}/{number}/{name}"


def _pressed(is_chosen: bool) -> str:
    return f' aria-pressed="{str(is_chosen).lower()}"'
