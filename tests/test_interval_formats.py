"""Shots and scenes as lists: readers of others read each format; it is right to the frame at every frame rate."""

import contextlib
import csv
import io
import itertools
import json
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import av
import opentimelineio
import pytest
from make_videos import make_video
from opentimelineio.opentime import RationalTime

from m2s.export import FORMATS as OFFERED
from m2s.main import main
from modeling_m2s.interval_formats_m2s import FORMATS, chapters, to_edl, to_fcpxml, to_ffmetadata, to_otio, to_srt
from modeling_m2s.intervals_m2s import TIMELINE_RATES, FilmIntervals, Interval, Timeline, read_films
from modeling_m2s.storage_m2s import FilmDataset, StorageError
from modeling_m2s.video_m2s import fingerprint

NASTY = "a \"b\" 'c' <d> & é\n=[#;e] -->"
# In the film at 29.97, shots begin at the last frame of the first minute and just after it, where numbers are dropped.
CUTS = [20, 31, 17, 40, 22, 25, 33, 18]
FILMS: dict[str, dict] = {
    "ntsc": {"rate": Fraction(24000, 1001)},
    "ntsc in milliseconds": {"rate": Fraction(24000, 1001), "suffix": ".mkv"},
    "pal": {"rate": 25},
    "drop": {"rate": Fraction(30000, 1001), "shot_lengths": [900, 899, 16, 16, 30]},
    "slow": {"rate": 15},
    NASTY: {
        "suffix": ".mkv",
        "times": [37 * frame + 44 * (frame // 3) + 170 * (frame // 41) for frame in range(sum(CUTS))],
    },
}
TIMELINES = {
    "ntsc": "24000/1001",
    "ntsc in milliseconds": "24000/1001",
    "pal": "25",
    "drop": "30000/1001",
    "slow": "30",
}


@pytest.fixture(scope="module")
def index(tiny_folder, tmp_path_factory) -> Path:
    """Films of known shots in scenes of three shots."""
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, facts) in enumerate(FILMS.items()):
        settings = {"shot_lengths": CUTS, "suffix": ".mp4", **facts}
        make_video(folder / f"{name}{settings.pop('suffix')}", size=(64, 48), seed=seed + 1, **settings)
    output = tmp_path_factory.mktemp("index") / "out"
    flags = ["--model", str(tiny_folder), "--shots-per-scene", "3", "--output", str(output)]
    assert main(["embed", str(folder), *flags]) == 0
    return output


@pytest.fixture(scope="module")
def films(index) -> dict[str, FilmIntervals]:
    """The films' scenes, which begin and end with the shots that they were made of."""
    found = {film.movie_id: film for film in read_films(index)}
    for name, film in found.items():
        lengths = FILMS[name].get("shot_lengths", CUTS)
        edges = [sum(lengths[:k]) for k in (*range(0, len(lengths), 3), len(lengths))]
        spans = list(itertools.pairwise(edges))
        assert [(each.start_frame, each.end_frame) for each in film.intervals] == spans
    return found


@pytest.fixture(params=list(FILMS), ids=lambda name: "varying" if name == NASTY else name)
def case(request, index, films, tmp_path, capsys) -> SimpleNamespace:
    """One film, the places that its scenes have on its timeline, and a function that exports it by the command line."""
    film = films[request.param]

    def export(kind: str, *flags: str, path: Path | None = None) -> Path:
        path = path or tmp_path / f"out.{kind}"
        command = ["export", str(index), "--format", kind, "--film", film.movie_id, "--output", str(path), *flags]
        assert main(command) == 0, capsys.readouterr().err
        return path

    rate = Fraction(TIMELINES.get(request.param, film.timeline.rate))
    shown = shown_at(Path(film.video))
    starts = [first_place(shown, each.start_frame, rate, film) for each in film.intervals]
    ends = [*starts[1:], first_place(shown, film.num_frames, rate, film)]
    return SimpleNamespace(
        film=film,
        export=export,
        copy=tmp_path / f"copy{Path(film.video).suffix}",
        rate=rate,
        shown=shown,
        places=list(zip(starts, ends, strict=True)),
    )


def shown_at(path: Path) -> list[Fraction]:
    """The time in seconds from which each frame is shown, and the end of the last one, from the file's packets."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = sorted(packet.pts * packet.time_base for packet in packets)
        last = max(packets, key=lambda packet: packet.pts)
        length = last.duration * last.time_base or 1 / Fraction(stream.average_rate)
    return [time - times[0] for time in [*times, times[-1] + length]]


def first_place(shown: list[Fraction], frame: int, rate: Fraction, film: FilmIntervals) -> int:
    """The first frame of a timeline at whose time a frame is shown, or a later one, searched one after another."""
    if film.movie_id != NASTY:
        return frame * round(rate / film.frame_rate)
    return next(place for place in range(10**6) if place / rate >= shown[frame])


def frame_at(shown: list[Fraction], seconds: Fraction) -> int:
    """The frame that is shown at a time."""
    return sum(time <= seconds for time in shown) - 1


@pytest.mark.parametrize("rate", TIMELINE_RATES, ids=str)
def test_timecodes_are_those_of_another_implementation(rate):
    timeline = Timeline(rate)
    assert timeline.is_drop_frame == (rate.denominator != 1 and round(rate) in (30, 60))
    day = timeline.frame("23:59:59:00") + round(rate)
    minutes = [60 * minute * round(rate) for minute in (0, 1, 2, 9, 10, 11, 59, 60, 61, 600, 1439)]
    for frame in sorted({max(0, start + more) for start in minutes for more in range(-70, 70)}):
        expected = RationalTime(frame, float(rate)).to_timecode(float(rate), timeline.is_drop_frame)
        assert timeline.timecode(frame) == expected
        assert timeline.frame(expected) == timeline.frame(expected.replace(";", ":")) == frame % day


def test_dropped_numbers_follow_a_counted_clock():
    timeline = Timeline(Fraction(30000, 1001))
    numbers = (
        (minute, second, number)
        for minute in range(61)
        for second in range(60)
        for number in range(30)
        if not (minute % 10 and second == 0 and number < 2)
    )
    for frame, (minute, second, number) in enumerate(numbers):
        assert timeline.timecode(frame) == f"{minute // 60:02d}:{minute % 60:02d}:{second:02d};{number:02d}"
    # An hour on that clock is an hour, to the 3.6 frames that remain.
    assert abs(timeline.frame("01:00:00;00") - 3600 * timeline.rate) < 4


@pytest.mark.parametrize(
    "text", ["", "1:2:3:4", "00:00:00", "00:01:00;00", "00:00:00:30", "00:60:00:02", "-0:00:00:00"]
)
def test_other_timecodes_are_refused(text):
    with pytest.raises(ValueError, match=r"is no timecode HH:MM:SS:FF at 29\.97 frames per second"):
        Timeline(Fraction(30000, 1001)).frame(text)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        *[("24", "24"), ("12", "24"), ("15", "30"), ("25/2", "25"), ("20", "60"), ("10", "30"), ("120", "60")],
        *[("120000/1001", "60000/1001"), ("15000/1001", "30000/1001"), ("28", "30000/1001"), ("1", "24")],
    ],
)
def test_the_timeline_has_a_rate_of_editors(rate, expected, films):
    assert replace(films["pal"], frame_rate=Fraction(rate)).timeline.rate == Fraction(expected)


def test_a_table_has_frames_seconds_and_timecodes(case):
    with open(case.export("csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = json.loads(case.export("json").read_text(encoding="utf-8"))
    assert (table["movie_id"], table["video"]) == (case.film.movie_id, case.film.video)
    assert Fraction(table["frame_rate"]) == case.film.frame_rate and Fraction(table["timeline_rate"]) == case.rate
    assert table["has_constant_rate"] == (case.film.movie_id != NASTY)
    assert len(rows) == len(table["scenes"]) == len(case.places)
    for row, listed, each, place in zip(rows, table["scenes"], case.film.intervals, case.places, strict=True):
        assert row.pop("movie_id") == case.film.movie_id
        assert row == {name: str(value) for name, value in listed.items()}
        for side, frame, where in zip(("start", "end"), (each.start_frame, each.end_frame), place, strict=True):
            assert listed[f"{side}_frame"] == frame
            assert listed[f"{side}_seconds"] == pytest.approx(float(case.shown[frame]), abs=1e-3)
            assert RationalTime.from_timecode(listed[f"{side}_timecode"], float(case.rate)).value == where


def test_an_edit_decision_list_is_right_to_the_frame(case):
    path = case.export("edl")
    timeline = opentimelineio.adapters.read_from_file(str(path), rate=float(case.rate))
    check_clips(timeline, case)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"TITLE: {' '.join(case.film.movie_id.split())}\nFCM: ")
    assert ("\nFCM: DROP FRAME\n" in text) == (case.film.movie_id == "drop") == (";" in text.split("\n")[3])
    assert re.findall(r"^\* LOC: .* (Scene \d+)$", text, re.M) == [each.name for each in case.film.intervals]
    names = [clip.name for clip in timeline.find_clips()]
    assert names == [" ".join(Path(case.film.video).name.split())] * len(case.places)


def test_an_opentimelineio_file_is_right_to_the_frame(case):
    timeline = opentimelineio.adapters.read_from_file(str(case.export("otio")))
    check_clips(timeline, case)
    assert timeline.name == " ".join(case.film.movie_id.split())
    for clip, each in zip(timeline.find_clips(), case.film.intervals, strict=True):
        assert clip.name == each.name and clip.metadata["m2s"]["start_frame"] == each.start_frame
        assert clip.source_range.start_time.rate == float(case.rate)
        assert opentimelineio.url_utils.filepath_from_url(clip.media_reference.target_url) == case.film.video
        available = clip.media_reference.available_range
        assert (available.start_time.value, available.duration.value) == (0, case.places[-1][1])


def check_clips(timeline: opentimelineio.schema.Timeline, case: SimpleNamespace) -> None:
    """The clips' parts of the film are the scenes, and the clips follow one another."""
    clips, record = list(timeline.find_clips()), 0
    assert len(clips) == len(case.places)
    for clip, (start, end) in zip(clips, case.places, strict=True):
        found = clip.source_range
        assert (found.start_time.to_frames(), found.end_time_exclusive().to_frames()) == (start, end)
        assert clip.range_in_parent().start_time.to_frames() == record
        record += end - start


SOUND = ("hasAudio", "audioSources", "audioChannels")
# Elements of FCPXML 1.9 that are written: attributes it must have, attributes it may have, and its children.
FCPXML_RULES = {
    "fcpxml": ({"version"}, set(), r"resources library"),
    "resources": (set(), set(), r"format asset"),
    "format": ({"id"}, {"name", "frameDuration", "width", "height"}, r""),
    "asset": ({"id"}, {"name", "start", "duration", "hasVideo", "format", *SOUND}, r"media-rep"),
    "media-rep": ({"src"}, {"kind"}, r""),
    "library": (set(), {"location"}, r"(event ?)*"),
    "event": (set(), {"name", "uid"}, r"(project ?)*"),
    "project": (set(), {"name", "uid", "id"}, r"sequence"),
    "sequence": ({"format"}, {"duration", "tcStart", "tcFormat"}, r"spine"),
    "spine": (set(), set(), r"(asset-clip ?)*"),
    "asset-clip": ({"ref"}, {"name", "offset", "start", "duration", "tcFormat"}, r""),
}


def seconds_of(text: str) -> Fraction:
    """FCPXML's times: a fraction of seconds."""
    assert re.fullmatch(r"\d+(/\d+)?s", text)
    return Fraction(text.removesuffix("s"))


def test_final_cut_pros_xml_is_right_to_the_frame(case):
    path = case.export("fcpxml")
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        needed, allowed, children = FCPXML_RULES[element.tag]
        assert needed <= set(element.keys()) <= needed | allowed
        assert re.fullmatch(children, " ".join(child.tag for child in element))
    assert path.read_text(encoding="utf-8").startswith('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>')
    frame = seconds_of(root.find(".//format").get("frameDuration"))
    assert frame == 1 / case.rate
    asset, sequence, record = root.find(".//asset"), root.find(".//sequence"), 0
    assert sequence.get("tcFormat") == ("DF" if case.film.movie_id == "drop" else "NDF")
    assert opentimelineio.url_utils.filepath_from_url(asset.find("media-rep").get("src")) == case.film.video
    for clip, (start, end) in zip(root.iter("asset-clip"), case.places, strict=True):
        places = [seconds_of(clip.get(name)) / frame for name in ("start", "duration", "offset")]
        assert places == [start, end - start, record]
        record += end - start
    assert seconds_of(sequence.get("duration")) / frame == record
    assert seconds_of(asset.get("duration")) / frame == case.places[-1][1]
    found = opentimelineio.adapters.read_from_file(str(path), "fcpx_xml").find_clips()
    for clip, each, place in zip(found, case.film.intervals, case.places, strict=True):
        assert clip.name == each.name
        if case.rate.denominator != 1:
            continue  # that reader takes 23.976 for 23
        assert [
            round(time.value_rescaled_to(float(case.rate)), 3)
            for time in (clip.source_range.start_time, clip.source_range.end_time_exclusive())
        ] == list(place)


def test_subtitles_appear_with_the_first_frame_and_go_with_the_last(case):
    path = case.export("srt")
    with av.open(str(path)) as container:
        cues = [packet for packet in container.demux() if packet.size]
    assert [bytes(cue).decode() for cue in cues] == [each.name for each in case.film.intervals]
    for cue, each in zip(cues, case.film.intervals, strict=True):
        start, end = cue.pts * cue.time_base, (cue.pts + cue.duration) * cue.time_base
        check_times(case, each, start, end)


def check_times(case: SimpleNamespace, each: Interval, start: Fraction, end: Fraction) -> None:
    """The interval's first frame is shown at `start`, and the frame after its last one at `end`."""
    assert frame_at(case.shown, start) == each.start_frame
    assert frame_at(case.shown, end) == each.end_frame or (
        end >= case.shown[-1] and each.end_frame == case.film.num_frames
    )
    assert start - case.shown[each.start_frame] < Fraction(1, 1000) and end - case.shown[each.end_frame] < Fraction(
        1, 500
    )


def test_chapters_begin_with_their_first_frames(case):
    text, copy = case.export("chapters"), case.export("chapters", "--embed", path=case.copy)
    with av.open(str(text), format="ffmetadata") as container:
        written = container.chapters()
    with av.open(str(copy)) as container:
        embedded = container.chapters()
    for found in (written, embedded):
        assert [chapter["metadata"]["title"] for chapter in found] == [each.name for each in case.film.intervals]
        for chapter, each in zip(found, case.film.intervals, strict=True):
            start, end = chapter["start"] * chapter["time_base"], chapter["end"] * chapter["time_base"]
            check_times(case, each, start, end)


def film_of(spans: list[tuple[int, int]], name: str = "Scene") -> FilmIntervals:
    """A film at 25 frames per second with intervals of the given frames, a shot every ten frames."""
    return FilmIntervals(
        movie_id="film",
        video="/films/film.mkv",
        fingerprint="",
        of="scenes",
        frame_rate=Fraction(25),
        num_frames=100,
        duration_seconds=4.0,
        width=64,
        height=48,
        intervals=tuple(
            Interval(f"{name} {number}", start // 10, (end - start) // 10, start, end, start / 25, end / 25)
            for number, (start, end) in enumerate(spans, 1)
        ),
        has_constant_rate=True,
    )


def test_the_command_offers_every_format():
    assert set(OFFERED) == {*FORMATS, "html"}


def test_of_two_chapters_with_one_start_the_second_stays():
    film = film_of([(0, 50), (0, 60), (60, 100)])
    assert chapters(film) == [("Scene 2", 0, 2400), ("Scene 3", 2400, 4000)]


def test_overlapping_scenes_follow_one_another_and_chapters_do_not_overlap():
    film = film_of([(0, 50), (20, 70), (40, 90)])
    timeline = opentimelineio.adapters.read_from_string(to_edl(film), "cmx_3600", rate=25)
    clips = list(timeline.find_clips())
    assert [clip.source_range.start_time.value for clip in clips] == [0, 20, 40]
    assert [clip.range_in_parent().start_time.value for clip in clips] == [0, 50, 100]
    spine = ElementTree.fromstring(to_fcpxml(film)).iter("asset-clip")
    assert [clip.get("offset") for clip in spine] == ["0s", "50/25s", "100/25s"]
    assert [(start, end) for _, start, end in chapters(film)] == [(0, 800), (800, 1600), (1600, 3600)]
    assert "00:00:00,000 --> 00:00:02,000" in to_srt(film)


def test_the_timecode_of_the_first_frame_moves_the_sources_alone():
    film = film_of([(0, 50), (50, 100)])
    film = replace(film, origin=film.timeline.frame("10:00:00:00"))
    edl = to_edl(film).split("\n")
    assert edl[3].endswith("10:00:00:00 10:00:02:00 00:00:00:00 00:00:02:00")
    clips = list(opentimelineio.adapters.read_from_string(to_otio(film), "otio_json").find_clips())
    assert [clip.source_range.start_time.to_timecode() for clip in clips] == ["10:00:00:00", "10:00:02:00"]
    assert clips[0].media_reference.available_range.start_time.value == 900_000
    root = ElementTree.fromstring(to_fcpxml(film))
    assert root.find(".//asset").get("start") == root.find(".//asset-clip").get("start") == "900000/25s"
    assert root.find(".//asset-clip").get("offset") == "0s" and root.find(".//asset").get("duration") == "100/25s"


@pytest.mark.parametrize(
    ("layout", "channels", "tracks"),
    [("", 0, ["V"]), ("mono", 1, ["V", "A1"]), ("stereo", 2, ["V", "A1", "A2"]), ("5.1", 6, ["V", "A1", "A2"])],
)
def test_sound_goes_with_the_pictures(layout, channels, tracks, tmp_path):
    path = make_video(tmp_path / "film.mkv", [50, 50], rate=25, audio=bool(layout), audio_layout=layout)
    film = replace(film_of([(0, 50), (50, 100)]), video=str(path), fingerprint=fingerprint(path))
    edl = opentimelineio.adapters.read_from_string(to_edl(film), "cmx_3600", rate=25)
    assert [track.name for track in edl.tracks] == tracks
    otio = opentimelineio.adapters.read_from_string(to_otio(film), "otio_json")
    assert [track.kind for track in otio.tracks] == ["Video", "Audio"][: 1 + bool(channels)]
    for track in (*edl.tracks, *otio.tracks):
        places = [(clip.source_range, clip.range_in_parent().start_time.value) for clip in track]
        starts = [(each.start_time.value, each.duration.value, place) for each, place in places]
        assert starts == [(0, 50, 0), (50, 50, 50)]
    asset = ElementTree.fromstring(to_fcpxml(film)).find(".//asset")
    assert [asset.get(name) for name in SOUND] == (["1", "1", str(channels)] if channels else [None] * 3)
    assert asset.get("hasVideo") == "1"
    for changed in (replace(film, fingerprint="other"), replace(film, video=str(tmp_path / "gone.mkv"))):
        assert "AX       V     C" in to_edl(changed) and "hasAudio" not in to_fcpxml(changed)
    if channels:  # what cannot be read has none
        path.write_bytes(b"no film")
        assert not replace(film, fingerprint=fingerprint(path)).num_channels


def test_a_scene_shorter_than_a_frame_of_the_timeline_is_left_out():
    film = film_of([(0, 50), (50, 60), (60, 100)])
    short = replace(film.intervals[1], start_seconds=2.01, end_seconds=2.03)
    film = replace(film, has_constant_rate=False, intervals=(film.intervals[0], short, film.intervals[2]))
    assert [clip.interval.name for clip in film.clips()] == ["Scene 1", "Scene 3"]
    with pytest.raises(StorageError, match="film: none of its scenes is as long as a frame of a timeline"):
        replace(film, intervals=(short,)).clips()


@pytest.mark.parametrize("name", [NASTY, "a\x00b\u2028c", "]]> \U0001f600"])
def test_names_of_any_letters_pass_through_every_format(name):
    film = replace(film_of([(0, 50), (50, 100)], name), movie_id=name, video=f"/films/{name}.mkv")
    line = " ".join(re.sub(r"[\x00\u2028]", " ", name).split())
    titles = [f"{line} 1", f"{line} 2"]
    edl = opentimelineio.adapters.read_from_string(to_edl(film), "cmx_3600", rate=25)
    assert edl.name == line and {clip.name for clip in edl.find_clips()} == {f"{line}.mkv"}
    otio = opentimelineio.adapters.read_from_string(to_otio(film), "otio_json")
    assert otio.name == line and [clip.name for clip in otio.find_clips()] == titles
    root = ElementTree.fromstring(to_fcpxml(film))
    assert root.find(".//event").get("name") == line
    assert [clip.get("name") for clip in root.iter("asset-clip")] == titles
    assert json.loads(FORMATS["json"][1](film))["movie_id"] == name
    (row, _) = csv.DictReader(io.StringIO(FORMATS["csv"][1](film), newline=""))
    assert (row["movie_id"], row["name"]) == (name, f"{name} 1")


def test_names_of_any_letters_pass_through_subtitles_and_chapters(tmp_path):
    film = film_of([(0, 50), (50, 100)], NASTY)
    titles = [f"{' '.join(NASTY.split())} {number}" for number in (1, 2)]
    (tmp_path / "a.srt").write_text(to_srt(film), encoding="utf-8")
    with av.open(str(tmp_path / "a.srt")) as container:
        assert [bytes(packet).decode() for packet in container.demux() if packet.size] == titles
    (tmp_path / "a.txt").write_text(to_ffmetadata(film), encoding="utf-8")
    with av.open(str(tmp_path / "a.txt"), format="ffmetadata") as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == titles


def test_shots_are_listed_as_scenes_are(index, tmp_path, capsys):
    output = tmp_path / "shots.json"
    assert (
        main(["export", str(index), "--of", "shots", "--format", "json", "--film", "pal", "--output", str(output)]) == 0
    )
    shots = json.loads(output.read_text())["shots"]
    assert [each["end_frame"] - each["start_frame"] for each in shots] == CUTS
    assert [(each["name"], each["first_shot"], each["num_shots"]) for each in shots][:2] == [
        ("Shot 1", 0, 1),
        ("Shot 2", 1, 1),
    ]
    assert capsys.readouterr().out == f"{output}: 8 shots\n"


def test_every_film_gets_a_file_in_a_folder(index, tmp_path):
    for flags, folder in (([], index / "exports"), (["--output", str(tmp_path / "new")], tmp_path / "new")):
        assert main(["export", str(index), "--format", "csv", *flags]) == 0
        files = sorted(folder.glob("*.csv"))
        assert len(files) == len(FILMS)
        ids = [
            next(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True)))["movie_id"]
            for path in files
        ]
        assert sorted(ids) == sorted(FILMS)
    assert main(["export", str(index), "--format", "srt", "--film", "pal", "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("pal-*.srt"))) == 1


@pytest.fixture
def copied(index, tmp_path) -> Path:
    """The index, to be changed."""
    return shutil.copytree(index, tmp_path / "copied")


def refusal(capsys, *words: str | Path) -> str:
    """The only error of a command that fails."""
    capsys.readouterr()
    assert main(["export", *map(str, words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("m2s: error: ")
    return line.removeprefix("m2s: error: ")


def test_what_cannot_be_exported_is_told_in_one_line(index, copied, tmp_path, capsys):
    assert " films match 's'; there are: " in refusal(capsys, index, "--format", "csv", "--film", "s")
    told = refusal(capsys, index, "--format", "csv", "--film", "gone")
    assert told.startswith(f"{index}: no films match 'gone'; there are: ")
    assert refusal(capsys, tmp_path / "none", "--format", "edl").endswith(
        "no shots here; m2s embed makes an index of them"
    )
    (tmp_path / "file").write_text("")
    told = refusal(capsys, index, "--format", "csv", "--film", "pal", "--output", tmp_path / "file" / "a.csv")
    assert told.startswith(f"{tmp_path}/file/a.csv: cannot be written (")
    told = refusal(capsys, index, "--format", "csv", "--film", "pal", "--output", tmp_path / "a.mkv")
    assert told == f"--output {tmp_path}/a.mkv has the name of a film, but --format csv makes none"
    assert "leave out --of shots" in refusal(capsys, index, "--format", "html", "--of", "shots")
    assert "needs --format chapters, not edl" in refusal(capsys, index, "--format", "edl", "--embed")
    told = refusal(capsys, index, "--format", "srt", "--start-timecode", "01:00:00:00")
    assert told == "--format srt holds times and no timecodes; leave out --start-timecode"
    told = refusal(capsys, index, "--format", "edl", "--film", "pal", "--start-timecode", "01:00:00:25")
    assert told == "'01:00:00:25' is no timecode HH:MM:SS:FF at 25 frames per second"
    with contextlib.suppress(SystemExit):
        assert main(["export", str(index), "--format", "aaf"]) != 0
    assert "invalid choice: 'aaf'" in capsys.readouterr().err


def test_an_index_without_scenes_still_has_shots(copied, capsys):
    shutil.rmtree(copied / "scene_embeddings")
    for kind in ("csv", "html"):
        assert refusal(capsys, copied, "--format", kind).startswith(f"{copied}: no ")
    assert main(["export", str(copied), "--format", "edl", "--of", "shots"]) == 0
    assert len(list((copied / "exports").glob("*.edl"))) == len(FILMS)


def test_a_film_without_scenes_fails_alone(copied, capsys):
    scenes = FilmDataset(copied / "scene_embeddings", "scene_embeddings")
    table = scenes.read()
    scenes.write_all(table.filter([movie_id != "pal" for movie_id in table["movie_id"].to_pylist()]), model="tiny")
    for kind in ("json", "html"):
        assert refusal(capsys, copied, "--format", kind) == "pal: the film has no scenes to export"
        assert len(list((copied / "exports").glob(f"*.{kind}"))) == len(FILMS) - 1


def test_unfinished_empty_and_foreign_folders_are_refused(copied, capsys, tmp_path):
    scenes, shots = (FilmDataset(copied / kind, kind) for kind in ("scene_embeddings", "shots"))
    scenes.reopen()
    assert refusal(capsys, copied, "--format", "csv").endswith("the index here is not finished; run m2s embed")
    shots.finish([], {})
    assert refusal(capsys, copied, "--format", "csv").endswith("the index is empty; every film failed")
    shutil.copy(copied / "films/m2s.json", copied / "shots/m2s.json")
    assert "m2s.json: holds ('films', 1); expected ('shots', 1)" in refusal(capsys, copied, "--format", "csv")


def test_scenes_of_other_shots_are_refused(copied, films, capsys):
    shots = FilmDataset(copied / "shots", "shots")
    rows = [row for row in shots.read().to_pylist() if row["movie_id"] != "pal" or row["shot_index"] < 7]
    facts = {movie_id: film.facts for movie_id, film in shots.films().items()}
    other = FilmDataset(copied / "other", "shots")
    other.begin(shots.record["settings"])
    for movie_id in facts:
        other.write_film(movie_id, [row for row in rows if row["movie_id"] == movie_id], facts[movie_id])
    other.finish(facts, {})
    shutil.rmtree(copied / "shots")
    (copied / "other").rename(copied / "shots")
    told = refusal(capsys, copied, "--format", "csv", "--film", "pal")
    assert told.startswith("pal: a scene ends at shot 7, but the film has 7 shots")
