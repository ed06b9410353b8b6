"""The pair atlas: one page that needs nothing else, shows the right frames, counts rightly, opens in a browser."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts.mining.atlas import draw, film_use, in_parts, read_atlas, summary, thumbnail
from data_scripts.pair_atlas import MOST_PAIRS, main
from modeling_m2s.storage_m2s import FilmDataset

LENGTHS = {"tt0000001": 40, "tt0000002": 31, "tt0000003": 25}
TITLE = 'Tom & "Jerry" <script>alert(1)</script>'
VOID = {"meta", "img"}


def color(movie_id: str, shot: int) -> tuple[int, int, int]:
    """Every shot has its own."""
    return (60 * int(movie_id[-1]), 6 * shot, 255 - 6 * shot)


def jpeg(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=95)
    return file.getvalue()


def write_pairs(folder: Path, pairs: list[tuple], settings: dict | None = None) -> None:
    names = ("movie_id_a", "first_shot_a", "movie_id_b", "first_shot_b", "score", "source")
    dataset = FilmDataset(folder / "scene_pairs", "scene_pairs")
    dataset.begin({"space": "model", "window": 9, "features": {"encoder": "clip"}} if settings is None else settings)
    dataset.write_all([{**dict(zip(names, pair, strict=True)), "num_shots": 9} for pair in sorted(pairs)])


PAIRS = [
    ("tt0000001", 0, "tt0000002", 9, 5.0, "genre"),
    ("tt0000001", 9, "tt0000002", 0, 7.0, "genre"),
    ("tt0000001", 20, "tt0000002", 22, 6.0, "genre"),
    ("tt0000001", 31, "tt0000003", 16, 1.0, "co_watch+genre"),
]


@pytest.fixture
def catalog(tmp_path) -> Path:
    """Films of single-colored shots of two seconds; shot 3 of the first has no keyframe."""
    shots = FilmDataset(tmp_path / "shots", "shots")
    shots.begin({})
    rows = []
    for movie_id, num_shots in LENGTHS.items():
        for shot in range(num_shots):
            image = jpeg(Image.new("RGB", (256, 144), color(movie_id, shot)))
            frames = [] if (movie_id, shot) == ("tt0000001", 3) else [{"bytes": image, "path": None}]
            place = {"start_frame": 48 * shot, "end_frame": 48 * shot + 48, "keyframe_frames": [48 * shot + 24]}
            times = {"start_seconds": 2.0 * shot, "end_seconds": 2.0 * shot + 2}
            rows.append({"movie_id": movie_id, "shot_index": shot, **place, **times, "keyframes": frames})
    shots.write_all(rows)
    movies = FilmDataset(tmp_path / "movies", "movies")
    movies.begin({})
    row = {"genres": [], "synopsis": "", "video": "", "movie_id": "tt0000001", "title": TITLE, "year": 1940}
    movies.write_all([row, {**row, "movie_id": "tt0000002", "title": "Silent", "year": 0}])
    write_pairs(tmp_path, PAIRS)
    return tmp_path


def flags(catalog: Path, *more: str) -> list[str]:
    inputs = ["--pairs", str(catalog / "scene_pairs"), "--shots", str(catalog / "shots")]
    return [*inputs, "--movies", str(catalog / "movies"), "--output", str(catalog / "atlas.html"), *more]


class Page(HTMLParser):
    """Elements, text and attributes of a page; fails where tags are not nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_needs_nothing_but_itself(catalog, capsys):
    main(flags(catalog))
    text = (catalog / "atlas.html").read_text()
    page = Page(text)
    links = [value for _, each in page.elements for name, value in each.items() if name in ("src", "href", "srcset")]
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    anchors = {each["id"] for _, each in page.elements if "id" in each}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert "http" not in re.sub(r"http-equiv", "", text) and not page.all("script") and not page.all("link")
    assert TITLE in page.text and "Silent (year unknown)" in page.text and "tt0000003" in page.text
    assert all(image["alt"] for image in page.all("img"))
    assert "4 of 4 scene pairs in " in capsys.readouterr().out


def test_strips_show_the_shots_of_the_pairs_highest_score_first(catalog):
    main(flags(catalog))
    page = Page((catalog / "atlas.html").read_text())
    shown = [
        (image["alt"], Image.open(BytesIO(base64.b64decode(image["src"].split(",")[1])))) for image in page.all("img")
    ]
    expected = [
        (movie_id, shot)
        for pair in sorted(PAIRS, key=lambda pair: -pair[4])
        for movie_id, first in (pair[:2], pair[2:4])
        for shot in range(first, first + 9)
        if (movie_id, shot) != ("tt0000001", 3)
    ]
    assert len(shown) == len(expected) == 4 * 18 - 1
    for (alt, picture), (movie_id, shot) in zip(shown, expected, strict=True):
        assert alt == f"shot {shot}, 00:{2 * shot // 60:02d}:{2 * shot % 60:02d}"
        assert picture.size == (128, 72)
        assert np.abs(np.array(picture)[36, 64].astype(int) - color(movie_id, shot)).max() <= 4
    assert "no keyframe" in page.text and "00:00:18 – 00:00:36" in page.text
    assert re.findall(r"Score ([\d.]+)", page.text) == ["7", "6", "5", "1"]


def test_pairs_are_drawn_evenly_over_the_scores():
    scores = np.random.default_rng(0).normal(size=1000)
    drawn = draw(scores, 10, 0)
    ranks = (-scores).argsort().argsort()[drawn]
    assert [rank // 100 for rank in ranks] == list(range(10))
    assert drawn == draw(scores, 10, 0) != draw(scores, 10, 1)
    assert sorted(draw(scores[:4], 10, 0)) == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_page(catalog):
    pages = []
    for seed in ("0", "0", "1"):
        main(flags(catalog, "--num_pairs", "2", "--num_film_pairs", "1", "--seed", seed))
        pages.append((catalog / "atlas.html").read_bytes())
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.parametrize(
    ("added", "overlaps"),
    [
        ([], 0),
        ([("tt0000001", 29, "tt0000002", 13, 2.0, "genre")], 1),
        ([("tt0000001", 28, "tt0000002", 13, 2.0, "genre")], 2),
        ([("tt0000002", 9, "tt0000003", 8, 2.0, "genre")], 0),
    ],
)
def test_scenes_that_overlap_are_counted(added, overlaps, catalog):
    write_pairs(catalog, [*PAIRS, *added])
    atlas = read_atlas(catalog / "scene_pairs", catalog / "shots")
    expected = sum(
        p[0] == q[0] and p[2] == q[2] and abs(p[side] - q[side]) < 9
        for number, p in enumerate([*PAIRS, *added])
        for q in PAIRS[:number]
        for side in (1, 3)
    )
    assert summary(atlas)["overlaps"] == expected == overlaps
    main(flags(catalog))
    text = Page((catalog / "atlas.html").read_text()).text
    assert ("No two scenes of a film pair share a shot" in text) == (overlaps == 0)


def test_use_of_films_and_of_their_parts(catalog):
    use = film_use(read_atlas(catalog / "scene_pairs", catalog / "shots"))
    covered = {movie_id: np.zeros(num_shots) for movie_id, num_shots in LENGTHS.items()}
    for pair in PAIRS:
        covered[pair[0]][pair[1] : pair[1] + 9] += 1
        covered[pair[2]][pair[3] : pair[3] + 9] += 1
    assert [(row["name"], row["scenes"], row["partners"]) for row in use["films"]] == [
        ("tt0000001", 4, 2),
        ("tt0000002", 3, 1),
        ("tt0000003", 1, 1),
    ]
    for row in use["films"]:
        assert row["used"] == (covered[row["name"]] > 0).mean()
        assert row["parts"] == in_parts(covered[row["name"]], 60).tolist()
    assert use["quartiles"] == [1, 3, 4] and use["omitted"] == 0
    assert use["parts"] == np.mean([in_parts(each, 20) for each in covered.values()], 0).tolist()


def test_parts_of_a_film():
    assert in_parts(np.arange(12), 4).tolist() == [1, 4, 7, 10]
    assert in_parts(np.array([3, 5]), 4).tolist() == [3, 3, 5, 5]
    assert in_parts(np.array([1, 1, 7]), 2).tolist() == [1, 4]


def test_the_largest_page_is_below_ten_megabytes():
    noise = np.random.default_rng(0).integers(256, size=(144, 256, 3), dtype=np.uint8)
    uri = thumbnail([{"bytes": jpeg(Image.fromarray(noise).resize((128, 72), Image.Resampling.NEAREST))}])
    assert len(uri) > 5000
    assert MOST_PAIRS * 18 * (len(uri) + 100) < 9.5e6


def test_a_shot_of_several_keyframes_shows_the_middle_one():
    keyframes = [{"bytes": jpeg(Image.new("RGB", (64, 36), (80 * n, 0, 0)))} for n in range(4)]
    for count, middle in ((1, 0), (2, 0), (3, 1), (4, 1)):
        uri = thumbnail(keyframes[:count])
        shown = Image.open(BytesIO(base64.b64decode(uri.split(",")[1])))
        assert abs(shown.getpixel((30, 20))[0] - 80 * middle) <= 4
    assert thumbnail([]) is None


@pytest.mark.parametrize("space", ["features", "random", "another"])
def test_pages_of_other_settings_and_of_one_pair(space, catalog):
    write_pairs(catalog / "one", PAIRS[:1], {"space": space})
    main([*flags(catalog), "--pairs", str(catalog / "one/scene_pairs")])
    page = Page((catalog / "atlas.html").read_text())
    assert len(page.all("img")) == 17 and "nan" not in page.text and "not recorded" in page.text


@pytest.mark.parametrize(
    ("pairs", "more", "words"),
    [
        ([], [], "holds no scene pairs"),
        ([("tt0000001", 0, "tt0000009", 0, 1.0, "genre")], [], "lacks 1 films of .*scene_pairs, tt0000009 for one"),
        ([("tt0000001", 32, "tt0000002", 0, 1.0, "genre")], [], "film tt0000001 has 40 shots, fewer than a scene"),
        (PAIRS, ["--num_pairs", "0"], f"num_pairs=0 must be from 1 to {MOST_PAIRS}"),
        (PAIRS, ["--num_pairs", "46"], f"num_pairs=46 must be from 1 to {MOST_PAIRS}"),
        (PAIRS, ["--num_film_pairs", "51"], "num_film_pairs=51 must be from 0 to 50"),
        (PAIRS, ["--pairs", "nowhere"], "nowhere: no finished scene_pairs dataset"),
    ],
)
def test_what_makes_no_page_is_refused(pairs, more, words, catalog):
    write_pairs(catalog, pairs)
    with pytest.raises(SystemExit, match=f"data_scripts.pair_atlas: error: .*{words}"):
        main(flags(catalog, *more))
    assert not (catalog / "atlas.html").exists()


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_the_page_opens_in_a_browser(catalog):
    main(flags(catalog))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={catalog / 'profile'}"]
    command += ["--enable-logging=stderr", "--hide-scrollbars", "--window-size=1200,1500"]
    picture, page = catalog / "page.png", (catalog / "atlas.html").as_uri()
    done = subprocess.run(
        [*command, f"--screenshot={picture}", page], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    with Image.open(picture) as shown:
        pixels = np.array(shown.convert("RGB")).reshape(-1, 3).astype(int)
    for movie_id, shot in (("tt0000001", 12), ("tt0000002", 4), ("tt0000002", 28)):
        near = np.abs(pixels - color(movie_id, shot)).max(1) <= 4
        assert near.sum() > 2000, f"shot {shot} of {movie_id} is not on the page"
