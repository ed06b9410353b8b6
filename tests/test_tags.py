"""`m2s tag`: a classifier is trained by the real commands, and its tags are compared with a loop written out."""

import csv
import itertools
import json
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from make_videos import make_video, picture, write_film
from PIL import Image

from eval.embed_scenes import main as embed_scenes
from eval.probe import main as probe
from m2s.main import main
from m2s.tag import FORMATS
from modeling_m2s import M2SSceneForClassification, M2SSceneProcessor
from modeling_m2s.interval_formats_m2s import FORMATS as WRITERS
from modeling_m2s.intervals_m2s import Interval
from modeling_m2s.pretrained_m2s import ModelError, load_classifier
from modeling_m2s.shot_store_m2s import read_shots
from modeling_m2s.shots_m2s import Shot, detect_shots
from modeling_m2s.storage_m2s import FilmDataset
from modeling_m2s.tag_figures_m2s import GAP, LANE_HEIGHT, timeline
from modeling_m2s.tags_m2s import Classifier, keyframes_of, labeled_runs, read_index, read_video, windows
from modeling_m2s.video_m2s import fingerprint

SIZE = (96, 72)
QUICK = "hidden_size: 24\nlearning_rate: 0.03\nbatch_size: 16\nepochs: 40\ndropout: 0.0\nstandardize: true\n"


def look(labels: str, seed: int, num_frames: int) -> list[np.ndarray]:
    """Frames of a shot: bright by day, blue at night, half of it red where there is fire, over a faint texture."""
    base = np.empty((SIZE[1], SIZE[0], 3))
    base[:] = (10, 20, 70) if "night" in labels else (180, 190, 190)
    if "fire" in labels:
        base[:, SIZE[0] // 2 :] = (200, 40, 0)
    return [(base + 0.2 * picture(seed, frame, *SIZE)).astype(np.uint8) for frame in range(num_frames)]


@pytest.fixture(scope="module")
def classifiers(tiny_folder, tmp_path_factory) -> dict[str, Path]:
    """A classifier of one label a scene and one of several, as the documents say: labels, embeddings, probe."""
    folder = tmp_path_factory.mktemp("own")
    kinds = ("day", "night", "day|fire", "night|fire")
    shots = [look(kinds[number % 4], number, 16) for number in range(64)]
    (folder / "films").mkdir()
    write_film(folder / "films/train.mp4", [image for shot in shots for image in shot])
    (folder / "quick.yaml").write_text(QUICK)
    model = ["--model", str(tiny_folder)]
    assert main(["embed", str(folder / "films"), *model, "--output", str(folder / "index")]) == 0
    found = {}
    for name in ("one", "several"):
        lines = ["video,start,end,label,film,split"]
        for number in range(64):
            label = kinds[number % 4] if name == "several" else kinds[number % 4].split("|")[0]
            split = ("train", "train", "val", "test")[number // 4 % 4]
            start, end = number * 16 / 24 + 0.1, (number + 1) * 16 / 24 - 0.1
            lines.append(f"train,{start:.3f},{end:.3f},{label},f{number},{split}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        words = ["--task", "own", "--labels", str(folder / f"{name}.csv")]
        embeddings = str(folder / f"{name}_embeddings")
        embed_scenes([*words, "--shots", str(folder / "index/shots"), *model, "--output", embeddings])
        output = ["--output", str(folder / f"{name}.json"), "--export", str(folder / name)]
        recipe = ["--recipe", str(folder / "quick.yaml"), "--seeds", "1", "--probes", "mlp"]
        probe([*words, "--embeddings", embeddings, *model, *recipe, *output])
        found[name] = folder / name / "own"
    return found


TRUTH = ["day", "night", "night|fire", "day|fire", "day", "night"]
LENGTHS = [31, 40, 222, 26, 18, 35]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A film of six shots, the third one 9 s long, whose fifth second begins within it."""
    shots = [look(labels, 100 + n, length) for n, (labels, length) in enumerate(zip(TRUTH, LENGTHS, strict=True))]
    return write_film(tmp_path_factory.mktemp("films") / "test film.mp4", [image for shot in shots for image in shot])


@pytest.fixture(scope="module")
def index(film, tiny_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagged") / "index"
    words = ["--model", str(tiny_folder), "--shots-per-scene", "2", "--stride", "1", "--keyframes-per-shot", "2"]
    assert main(["embed", str(film), *words, "--output", str(folder)]) == 0
    return folder


def tag(films: Path, model: Path, output: Path, *flags: str, kind: str = "csv") -> list[dict[str, str]] | str:
    """The list that the command writes: the rows of a CSV, else its text."""
    words = ["tag", films, "--model", model, "--output", output, "--format", kind, *flags]
    assert main([str(word) for word in words]) == 0
    (path,) = output.glob(f"*{WRITERS[kind][0]}")
    text = path.read_text()
    return list(csv.DictReader(text.splitlines())) if kind == "csv" else text


def by_hand(folder: Path, scenes: list[list[bytes]]) -> np.ndarray:
    """Probabilities of scenes given by their keyframes: the saved model and processor, a scene at a time."""
    model = M2SSceneForClassification.from_pretrained(folder).eval()
    processor = M2SSceneProcessor.from_pretrained(folder)
    found = []
    for keyframes in scenes:
        with torch.no_grad():
            logits = model(**processor([[Image.open(BytesIO(jpeg)) for jpeg in keyframes]])).logits[0]
        several = model.config.problem_type == "multi_label_classification"
        found.append((logits.sigmoid() if several else logits.softmax(0)).numpy())
    return np.stack(found)


def read_by_hand(shots: list[Shot], start: int, end: int) -> list[bytes]:
    """Keyframes of a stretch of frames: those within; of a shot on screen without one, the nearest to the middle."""
    read = []
    for shot in shots:
        if shot.end_frame <= start or shot.start_frame >= end:
            continue
        pairs = list(zip(shot.keyframe_frames, shot.keyframes, strict=True))
        within = [jpeg for frame, jpeg in pairs if start <= frame < end]
        read += within or [min(pairs, key=lambda pair: abs(pair[0] - (start + end - 1) / 2))[1]]
    return read


@pytest.mark.parametrize("kind", ["one", "several"])
@pytest.mark.parametrize("flags", [[], ["--window", "5"], ["--window", "1.37"]], ids=lambda flags: "".join(flags[1:]))
@pytest.mark.parametrize("source", ["film", "index"])
def test_tags_are_those_of_a_loop(kind, flags, source, classifiers, film, index, tmp_path, request):
    folder = classifiers[kind]
    rows = tag({"film": film, "index": index}[source], folder, tmp_path, *flags)
    if source == "film":
        shots = detect_shots(film).shots
    else:
        dataset = FilmDataset(index / "shots", "shots")
        shots = read_shots(dataset, dataset.films()["test film"])
    assert [shot.start_frame for shot in shots] == [0, *np.cumsum(LENGTHS)[:-1]]
    if flags:
        step = float(flags[1]) * 24
        cuts = [int(np.ceil(number * step - 1e-6)) for number in range(int(np.ceil(372 / step)))] + [372]
        expected = list(itertools.pairwise(cuts))
    else:
        runs = [(0, 6)] if source == "film" else [(number, number + 2) for number in range(5)]
        expected = [(shots[a].start_frame, shots[b - 1].end_frame) for a, b in runs]
    assert [(int(row["start_frame"]), int(row["end_frame"])) for row in rows] == expected
    for row in rows:
        assert float(row["start_seconds"]) == pytest.approx(int(row["start_frame"]) / 24, abs=1e-6)
        assert float(row["end_seconds"]) == pytest.approx(int(row["end_frame"]) / 24, abs=1e-6)
        seen = next(s.shot_index for s in shots if s.end_frame > int(row["start_frame"]))
        last = [s.shot_index for s in shots if s.start_frame < int(row["end_frame"])][-1]
        assert (int(row["first_shot"]), int(row["num_shots"])) == (seen, last - seen + 1)
    probabilities = by_hand(folder, [read_by_hand(shots, *frames) for frames in expected])
    names = list(M2SSceneForClassification.from_pretrained(folder).config.id2label.values())
    columns = [name for name in rows[0] if name.startswith("probability: ")]
    assert columns == [f"probability: {name}" for name in names]
    assert np.array([[float(row[name]) for name in columns] for row in rows]) == pytest.approx(probabilities, abs=1e-4)
    for row, values in zip(rows, probabilities, strict=True):
        ranked = sorted(range(len(names)), key=lambda number: -values[number])
        chosen = ranked[:1] if kind == "one" else [number for number in ranked if values[number] >= 0.5]
        assert row["labels"] == "|".join(names[number] for number in chosen)


def test_tags_are_true(classifiers, film, tmp_path):
    """Looks that were learned are found in windows that lie in one shot."""

    def within(kind: str) -> tuple[list[dict[str, str]], list[list[str]]]:
        rows = tag(film, classifiers[kind], tmp_path / kind, "--window", "0.5")
        inside = [row for row in rows if row["num_shots"] == "1"]
        return inside, [TRUTH[int(row["first_shot"])].split("|") for row in inside]

    rows, truth = within("one")
    assert len(rows) > 20
    assert np.mean([row["labels"] == labels[0] for row, labels in zip(rows, truth, strict=True)]) > 0.9
    rows, truth = within("several")
    for label in ("day", "night", "fire"):
        values = np.array([float(row[f"probability: {label}"]) for row in rows])
        has = np.array([label in labels for labels in truth])
        assert (values[has][:, None] > values[~has]).mean() > 0.9, label


def test_thresholds_choose_labels(classifiers, index, tmp_path):
    for kind, threshold in [("several", "0.9"), ("several", "0"), ("one", "0.9"), ("one", "0")]:
        rows = tag(index, classifiers[kind], tmp_path / (kind + threshold), "--threshold", threshold)
        for row in rows:
            values = {name[13:]: float(row[name]) for name in row if name.startswith("probability: ")}
            order = sorted(values, key=lambda name: -values[name])[: 1 if kind == "one" else None]
            assert [name for name in row["labels"].split("|") if name] == [
                name for name in order if values[name] >= float(threshold)
            ]


def test_every_format_lists_labeled_stretches(classifiers, film, tmp_path):
    rows = tag(film, classifiers["one"], tmp_path, "--window", "0.5")
    stretches: list[tuple[str, int, int]] = []  # by hand: neighbors of one label
    for row in rows:
        label, start, end = row["labels"], int(row["start_frame"]), int(row["end_frame"])
        if stretches and stretches[-1][0] == label:
            stretches[-1] = (label, stretches[-1][1], end)
        else:
            stretches.append((label, start, end))
    assert 2 <= len(stretches) < len(rows)
    texts = {kind: tag(film, classifiers["one"], tmp_path, "--window", "0.5", kind=kind) for kind in FORMATS[1:]}
    listed = json.loads(texts["json"])["windows"]
    assert [each["labels"] for each in listed] == [[row["labels"]] for row in rows]
    assert [each["probabilities"].keys() for each in listed] == [{"day", "night"}] * len(rows)
    cues = re.findall(r"(\d+:\d+:\d+,\d+) --> .*\n(\w+) (\d+) %", texts["srt"])
    assert [label for _, label, _ in cues] == [label for label, *_ in stretches]
    for (label, start, end), (_, _, percent) in zip(stretches, cues, strict=True):
        highest = max(float(r[f"probability: {label}"]) for r in rows if start <= int(r["start_frame"]) < end)
        assert int(percent) == pytest.approx(100 * highest, abs=0.51)
    assert texts["edl"].count("* LOC:") == texts["chapters"].count("[CHAPTER]") == len(stretches)
    assert texts["otio"].count('"Clip.2"') == texts["fcpxml"].count("<asset-clip") == len(stretches)


def test_scenes_without_labels_are_in_no_list_of_labels(classifiers, film, tmp_path, capsys):
    assert (
        main(["tag", str(film), "--model", str(classifiers["one"]), "--output", str(tmp_path), "--threshold", "1"]) == 0
    )
    words = ["tag", str(film), "--model", str(classifiers["one"]), "--output", str(tmp_path / "srt"), "--format", "srt"]
    assert main(words) == 0 and len(list(tmp_path.glob("srt/*.srt"))) == 1  # a list that must not stay
    assert main([*words, "--threshold", "1"]) == 0
    assert "test film: no list: 0 of 1 scenes have labels" in capsys.readouterr().out
    assert [path.suffix for path in (tmp_path / "srt").iterdir()] == [".png"]
    assert len(list(tmp_path.glob("*.csv"))) == 1


def test_films_of_the_same_name_have_tags_of_their_own(classifiers, film, tmp_path):
    (tmp_path / "other").mkdir()
    other = make_video(tmp_path / "other" / film.name, [9, 8], size=(64, 48))
    for path in (film, other, film):
        assert main(["tag", str(path), "--model", str(classifiers["one"]), "--output", str(tmp_path / "tags")]) == 0
    assert len(list(tmp_path.glob("tags/*.csv"))) == len(list(tmp_path.glob("tags/*.png"))) == 2


def test_the_picture_has_a_bar_for_each_probability(classifiers, film):
    classifier = Classifier.load(str(classifiers["several"]))
    tagged = classifier.tag(*(found := read_video("f", film, window=1.5)))
    shots = found[1]
    pixels = np.asarray(timeline(tagged, shots, classifier.labels).convert("RGB"))
    left, right, lanes = 180, 1376, len(classifier.labels)
    bottoms = [len(pixels) - 44 - GAP - (LANE_HEIGHT + GAP) * lane for lane in range(lanes)]
    for each in tagged.intervals:
        middle = round(left + (each.start_seconds + each.end_seconds) / 2 / 15.5 * (right - left))
        heights = []
        for bottom in bottoms:
            column = pixels[bottom - LANE_HEIGHT : bottom, middle]
            heights.append(int((column != 255).any(1).sum()))
        expected = sorted(round(value * LANE_HEIGHT) for value in each.probabilities.values())
        assert sorted(heights) == pytest.approx(expected, abs=1)


def test_windows_of_a_film_of_varying_rate(tmp_path):
    """Windows begin with the first frame shown at their time or later, where a shot's frames are equally long."""
    times = [*range(0, 1000, 25), *range(1000, 4000, 100), *range(4000, 5000, 50)]
    path = make_video(tmp_path / "film.mkv", [40, 30, 20], times=times)
    film, shots = read_video("f", path, window=0.7)
    assert [shot.start_frame for shot in shots] == [0, 40, 70]
    assert len(film.intervals) == 8
    found = [each.start_frame for each in film.intervals[:6]]  # the last frame's length in this file is a guess
    assert found == [next(n for n, time in enumerate(times) if time >= 700 * k - 1e-6) for k in range(6)]
    assert [each.start_seconds for each in film.intervals[:6]] == pytest.approx(
        [times[n] / 1000 for n in found], abs=0.003
    )
    assert not film.has_constant_rate


def test_shots_without_keyframes_have_no_tags(classifiers, film):
    classifier = Classifier.load(str(classifiers["one"]))
    whole, shots = read_video("f", film)
    parts = windows(whole, shots, 2.0)
    shots[2].keyframes.clear()
    assert len(classifier.tag(parts, shots).intervals) == len(parts.intervals) - 4  # of windows within the third shot
    assert np.isnan(classifier.probabilities([[], shots[0].keyframes])).all(1).tolist() == [True, False]
    assert not list(keyframes_of(parts.intervals[3], shots))
    for shot in shots:
        shot.keyframes.clear()
    with pytest.raises(ValueError, match="threshold 2 is a probability"):
        classifier.tag(parts, shots, threshold=2)
    with pytest.raises(Exception, match="none of the film's 6 shots has a keyframe"):
        classifier.tag(parts, shots)
    for seconds in (0, -1, float("nan"), 1e-9):
        with pytest.raises(ValueError, match="greater than 0"):
            windows(whole, shots, seconds)


@pytest.mark.parametrize("num_shots", [9, 10, 23, 256])
def test_long_intervals_read_nine_evenly_spaced_shots(num_shots):
    """Of shots of four frames, two of them keyframes; every fifth shot has none."""
    shots = [Shot(n, 4 * n, 4 * n + 4, 0.0, 0.0, [4 * n + 1, 4 * n + 2], [b"a", b"b"]) for n in range(num_shots + 3)]
    for shot in shots[::5]:
        shot.keyframes.clear()
    whole = Interval("Scene 1", 2, num_shots, 8, 8 + 4 * num_shots, 0.0, 0.0)
    having = [number for number in range(2, 2 + num_shots) if number % 5]
    parts = np.linspace(0, len(having), min(9, len(having)) + 1)  # the shot at the middle of each of nine equal parts
    chosen = [having[int((start + end) / 2 + 1e-9)] for start, end in itertools.pairwise(parts)]
    assert list(keyframes_of(whole, shots)) == [(number, k) for number in chosen for k in (0, 1)]
    late = replace(whole, start_frame=10)  # a window that begins with the second keyframe of its first shot
    assert chosen[0] != 2 or next(keyframes_of(late, shots)) == (2, 1)


def test_overlapping_scenes_of_one_label_are_joined(classifiers, index):
    classifier = Classifier.load(str(classifiers["one"]))
    ((film, shots),) = read_index(index)
    tagged = classifier.tag(film, shots, threshold=0.0)
    joined = labeled_runs(tagged).intervals
    assert joined[0].start_frame == 0 and joined[-1].end_frame == 372
    assert all(one.labels != other.labels for one, other in itertools.pairwise(joined))
    for each in joined:
        assert each.end_frame == shots[each.first_shot + each.num_shots - 1].end_frame


def test_folders_are_tagged_film_by_film(classifiers, film, tmp_path, capsys, monkeypatch):
    (tmp_path / "films/b").mkdir(parents=True)
    shutil.copy(film, tmp_path / "films/b/test.mp4")
    shutil.copy(film, tmp_path / "films/a.mp4")
    (tmp_path / "films/broken.mp4").write_bytes(b"no film")
    monkeypatch.chdir(tmp_path)
    assert main(["tag", "films", "--model", str(classifiers["one"]), "--window", "5"]) == 1
    told = capsys.readouterr()
    assert re.fullmatch(r"m2s: error: .*broken\.mp4: not a readable video.*\n", told.err)
    assert told.out.count("4 of 4 windows have labels") == 2
    names = sorted(path.name for path in Path("tags").iterdir())
    part = fingerprint(film)[:8]
    assert names == [f"a-{part}.csv", f"a-{part}.png", f"b_test-{part}.csv", f"b_test-{part}.png"]


def bad_requests(classifiers, film, index, tiny_folder, folder: Path) -> dict[str, tuple[list, str]]:
    good, values = classifiers["several"], folder / "values"
    model = M2SSceneForClassification.from_pretrained(good)
    model.config.problem_type = "regression"
    model.save_pretrained(values)
    M2SSceneProcessor.from_pretrained(good).save_pretrained(values)
    (folder / "file").touch()
    (folder / "empty").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd/config.json").write_text('{"model_type": "bert"}')
    shutil.copytree(index, folder / "unfinished")
    record = folder / "unfinished/shots/m2s.json"
    record.write_text(record.read_text().replace('"complete": true', '"complete": false'))
    shutil.copytree(index, folder / "no_scenes")
    shutil.rmtree(folder / "no_scenes/scene_embeddings")
    return {
        "an encoder": ([film, "--model", tiny_folder], r"is no classifier of scenes, but M2SSceneModel; eval\.probe"),
        "another model": ([film, "--model", folder / "odd"], "no classifier of scenes, but bert"),
        "an empty folder": ([film, "--model", folder / "empty"], "--model .*empty cannot be loaded"),
        "no folder": ([film, "--model", folder / "gone"], "--model .*gone cannot be loaded"),
        "values": ([film, "--model", values], "gives values, no labels"),
        "no film": ([folder / "gone.mp4", "--model", good], r"gone\.mp4: no such film, folder or index"),
        "a folder without": ([folder / "empty", "--model", good], "no video files in this folder"),
        "shots": ([index / "shots", "--model", good], "a dataset of shots, not an index"),
        "unfinished": ([folder / "unfinished", "--model", good], "the index here is not finished"),
        "no scenes": ([folder / "no_scenes", "--model", good], "no scenes here; m2s embed"),
        "a wrong name": ([index, "--model", good, "--film", "zzz"], "no films match 'zzz'"),
        "a film's name": ([film, "--model", good, "--film", "x"], "--film names a film of an index"),
        "a threshold": ([film, "--model", good, "--threshold", "1.5"], "--threshold 1.5 is a probability: from 0 to 1"),
        "no number": ([film, "--model", good, "--threshold", "nan"], "--threshold nan is a probability"),
        "a window": ([film, "--model", good, "--window", "0"], "--window 0 is a number of seconds"),
        "a target": ([index, "--model", good, "--output", folder / "file/x"], "cannot be written"),
    }


def test_bad_requests_are_one_line(classifiers, film, index, tiny_folder, tmp_path, capsys):
    requests = bad_requests(classifiers, film, index, tiny_folder, tmp_path)
    for name, (words, message) in requests.items():
        capsys.readouterr()
        output = [] if "--output" in words else ["--output", tmp_path / "out"]
        assert main(["tag", *map(str, [*words, *output])]) == 1, name
        told = capsys.readouterr()
        assert re.fullmatch(rf"m2s: error: .*{message}.*\n", told.err) and not told.out, (name, told)
    assert not (tmp_path / "out").exists()


def test_without_scenes_windows_are_tagged(classifiers, index, tmp_path):
    shutil.copytree(index, tmp_path / "index")
    shutil.rmtree(tmp_path / "index/scene_embeddings")
    assert len(tag(tmp_path / "index", classifiers["one"], tmp_path / "out", "--window", "5")) == 4


def test_a_trainers_classifier_loads(classifiers, tmp_path):
    """`Trainer` saves the classifier without its processor; that is said."""
    model, _ = load_classifier(str(classifiers["one"]))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_classifier(str(tmp_path / "model"))
