"""Tasks: figures of perfect and constant predictions on the real labels, the paper's table from its counts, joins."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, mean_squared_error

from data_scripts.formats.boundaries import FilmBoundaries
from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes, LabelError
from data_scripts.formats.lvu import LVU_TASKS
from data_scripts.formats.movienet_labels import read_scene_boundaries
from eval.probes import ProbeTask
from eval.probes.probing import part
from eval.tasks import (
    TASKS,
    Embedded,
    EmbeddingError,
    Embeddings,
    group_of,
    join,
    moderation,
    place_retrieval,
    read_feature_file,
    read_scenes,
    read_tasks,
)
from eval.tasks.embeddings import read_scene_embeddings, read_shot_embeddings
from eval.tasks.figures import KINDS
from eval.tasks.paper import clip_and_best, paper_rows, paper_tables
from eval.tasks.scene_boundaries import boundary_task
from modeling_m2s.storage_m2s import FilmDataset, StorageError

# Published figures on test of the most frequent class of train, and mean squared errors of predicting zero.
MAJORITY = {"scene": 26.7, "director": 41.1, "relationship": 52.4, "way_speaking": 26.9, "writer": 5.4, "year": 8.4}
MAJORITY |= {"genre": 21.2}
BEST_CONSTANT = {"writer": 40.5, "year": 17.5, "genre": 27.4}
ZERO = {"view_count": 4.0895, "like_ratio": 0.6056}
# Queries by class that the paper's place retrieval has (six of the files' 120 are missing).
PAPER_QUERIES = {"office": 10, "airport": 4, "school": 42, "hotel": 14, "prison": 34, "restaurant": 10}


def probe_task(labeled: LabeledScenes) -> ProbeTask:
    return ProbeTask(labeled, np.zeros((len(labeled), 1), np.float32))


def constant(labeled: LabeledScenes, index: int) -> list[np.ndarray]:
    return [np.tile(np.eye(len(labeled.classes))[index], (len(labeled), 1))]


@pytest.mark.parametrize("name", LVU_TASKS)
def test_perfect_and_constant_predictions_on_lvu(assets, name):
    (task,) = read_tasks([f"lvu/{name}"], assets / "labels/lvu_1.0")
    test, training = part(task.labeled, "test"), task.labeled.labels[task.labeled.of_split("train")]
    trivial = task.trivial(probe_task(task.labeled))
    shown = task.figure
    if name in ZERO:
        assert task.measure([test.labels], test)[shown].values_S == [0]
        zero = task.measure([np.zeros(len(test))], test)[shown]
        assert round(zero.values_S[0], 4) == ZERO[name] == round(trivial["zero"][shown], 4)
        mean = task.measure([np.full(len(test), training.mean())], test)[shown]
        assert mean.values_S[0] == pytest.approx(trivial["mean"][shown])
        assert trivial["best_constant"][shown] <= trivial["mean"][shown]
        assert not task.higher_is_better
        return
    perfect = task.measure([np.eye(len(test.classes))[test.labels]], test)[shown]
    assert perfect.values_S == [1] and perfect.interval == (1, 1)
    majority = task.measure(constant(test, np.bincount(training).argmax()), test)[shown]
    assert majority.values_S[0] == pytest.approx(trivial["majority"][shown])
    assert round(100 * majority.values_S[0], 1) == MAJORITY[name]
    every = [task.measure(constant(test, index), test)[shown].values_S[0] for index in range(len(test.classes))]
    assert trivial["best_constant"][shown] == pytest.approx(max(every))
    if name in BEST_CONSTANT:
        assert round(100 * max(every), 1) == BEST_CONSTANT[name]
    assert trivial["chance"][shown] == pytest.approx(1 / len(set(training.tolist())))


def test_lvu_of_ma_lmm_has_seven_tasks(assets):
    assert len(read_tasks(["lvu"], assets / "labels/lvu_malmm_json")) == 7
    assert [task.name for task in read_tasks(["lvu"], assets / "labels/lvu_1.0")] == [
        f"lvu/{each}" for each in LVU_TASKS
    ]


def test_each_recipe_is_there():
    configs = Path(__file__).parent.parent / "eval/configs"
    names = [f"lvu_{task}.yaml" for task in LVU_TASKS] + [kind.recipe for kind in KINDS.values()]
    assert names[-3:] == ["own.yaml", "own_tags.yaml", "own_values.yaml"]
    assert [
        name for name in (*names, "moderation.yaml", "movienet_boundaries.yaml") if not (configs / name).exists()
    ] == []


def some_labels(problem: str, count: int = 23, seed: int = 0) -> LabeledScenes:
    """Scenes of seven films, labeled at random."""
    random = np.random.default_rng(seed)
    splits = random.permutation(np.resize(["train", "validation", "test"], count))
    scenes = tuple(LabeledScene(f"s{n}", f"tt{n % 7}", f"v{n}", str(split)) for n, split in enumerate(splits))
    if problem == "regression":
        return LabeledScenes("own", problem, scenes, random.normal(size=count))
    if problem == "multi_label_classification":
        labels = random.random((count, 3)) < [0.4, 0.6, 0]  # no scene has the last class
        return LabeledScenes("own", problem, scenes, labels, ("a", "b", "never"))
    return LabeledScenes("own", problem, scenes, random.integers(3, size=count), ("a", "b", "c"))


@pytest.mark.parametrize("problem", KINDS)
def test_figures_of_several_seeds_against_scikit_learn(problem):
    labeled, kind = some_labels(problem), KINDS[problem]
    random = np.random.default_rng(1)
    shape = (len(labeled),) if problem == "regression" else labeled.labels.shape
    scores = [random.random((*shape, 3) if problem == "single_label_classification" else shape) for _ in range(4)]
    expected = {
        "regression": lambda each: mean_squared_error(labeled.labels, each),
        "single_label_classification": lambda each: accuracy_score(labeled.labels, each.argmax(1)),
        "multi_label_classification": lambda each: average_precision_score(labeled.labels[:, :2], each[:, :2]),
    }[problem]
    figure = kind.measure(scores, labeled)[kind.figure]
    assert figure.values_S == pytest.approx([expected(each) for each in scores])
    assert figure.interval.low < figure.values_S.mean() < figure.interval.high
    shown = figure.as_json()
    assert shown["mean"] == pytest.approx(figure.values_S.mean(), abs=1e-6)
    assert shown["deviation"] == pytest.approx(np.std(figure.values_S, ddof=1), abs=1e-6)
    assert "deviation" not in kind.measure(scores[:1], labeled)[kind.figure].as_json()


def test_constant_scores_of_several_labels_reach_their_prevalence():
    labeled = some_labels("multi_label_classification")
    kind, test = KINDS[labeled.problem], part(labeled, "test")
    reached = kind.measure([np.full(test.labels.shape, 0.3)], test)[kind.figure].values_S[0]
    assert reached == pytest.approx(kind.trivial(probe_task(labeled))["prevalence"][kind.figure])
    assert kind.measure([test.labels.astype(float)], test)[kind.figure].values_S == [1]


@pytest.fixture(scope="module")
def scene318(assets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene318")
    with tarfile.open(assets / "labels/movienet_scene318.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "movienet_scene318"


def test_perfect_and_constant_boundaries_of_the_64_test_films(scene318):
    films = [film for film in read_scene_boundaries(scene318) if film.split == "test"]
    task = boundary_task("movienet_boundaries", films)
    labels = task.labeled.labels
    assert (len(films), len(labels), labels.sum()) == (64, 105976, 8110)
    equal = task.measure([np.full((len(labels), 2), 0.5)], task.labeled)
    equal = {name: figure.values_S[0] for name, figure in equal.items()}
    assert round(100 * equal.pop("average_precision"), 2) == 7.65
    assert equal.pop("average_precision_per_film") == pytest.approx(0.077, abs=0.01)
    assert equal == dict.fromkeys(equal, 0)
    few = boundary_task("movienet_boundaries", films[:6])
    perfect = few.measure([np.eye(2)[few.labeled.labels]], few.labeled)
    shown = {name: figure.values_S[0] for name, figure in perfect.items()}
    assert shown == pytest.approx(dict.fromkeys(perfect, 1), abs=1e-4)


def small_films(splits=("train", "validation", "test", "test"), shots: int = 11) -> list[FilmBoundaries]:
    """Films whose last shots have no label."""
    random = np.random.default_rng(3)
    films = []
    for number, split in enumerate(splits):
        ends = np.cumsum(random.integers(20, 90, shots + number)) - 1
        labels = random.random(len(ends) - 1) < 0.3
        labels[2] = True
        films.append(
            FilmBoundaries(f"tt000000{number}", split, labels, np.stack([np.r_[0, ends[:-1] + 1], ends], axis=1))
        )
    return films


def shots_of(films: list[FilmBoundaries], vectors=None) -> Embeddings:
    ids = [f"{film.movie_id}/{shot:04d}" for film in films for shot in range(film.num_shots)]
    vectors = np.random.default_rng(4).normal(size=(len(ids), 3)).astype(np.float32) if vectors is None else vectors
    return Embeddings(Path("shot_features"), {}, ids, vectors)


def test_a_boundary_is_read_with_two_shots_on_either_side():
    films = small_films()
    task, embeddings = boundary_task("movienet_boundaries", films), shots_of(films)
    embedded = join(task, embeddings)
    assert embedded.missing == {"train": 0, "validation": 0, "test": 0}
    number = [scene.scene_id for scene in task.labeled.scenes].index("tt0000001/0004")
    assert [embeddings.ids[row] for row in embedded.rows_NW[number]] == [f"tt0000001/{n:04d}" for n in (3, 4, 5, 6)]
    assert [embeddings.ids[row] for row in embedded.rows_NW[0]] == [f"tt0000000/{n:04d}" for n in (0, 0, 1, 2)]


def test_shots_without_keyframe_stay_and_are_counted():
    films = small_films()
    task, embeddings = boundary_task("movienet_boundaries", films), shots_of(films)
    assert join(task, embeddings).zeros == {"train": 0, "validation": 0, "test": 0}
    vectors = embeddings.vectors_ED.copy()
    vectors[embeddings.ids.index("tt0000001/0006")] = 0  # four windows read it
    embedded = join(task, shots_of(films, vectors))
    assert embedded.zeros == {"train": 0, "validation": 4, "test": 0}
    assert embedded.missing == {"train": 0, "validation": 0, "test": 0}


def test_boundaries_of_a_split_without_any(tmp_path):
    films = small_films()
    films[1].labels_M[:] = False
    with pytest.raises(LabelError, match="no scene of split validation has the label 'end of a scene'"):
        join(boundary_task("movienet_boundaries", films), shots_of(films))


def test_one_film_has_no_interval():
    labeled = some_labels("single_label_classification")
    one = LabeledScenes("own", labeled.problem, labeled.scenes[::7], labeled.labels[::7], labeled.classes)
    assert {scene.movie_id for scene in one.scenes} == {"tt0"} and len(one) > 2
    kind = KINDS[labeled.problem]
    assert kind.measure([np.eye(3)[one.labels]], one)["accuracy"].as_json() == {"mean": 1.0, "interval": None}


def test_boundary_figures_and_baselines_against_loops():
    films = small_films()
    task = boundary_task("movienet_boundaries", films)
    embedded = join(task, shots_of(films))
    probed = ProbeTask(embedded.labeled, embedded.embeddings_ED, embedded.rows_NW)
    test = part(embedded.labeled, "test")
    positive = np.random.default_rng(5).random((3, len(test)))
    figures = task.measure([np.stack([1 - each, each], axis=1) for each in positive], test)
    pooled = [average_precision_score(test.labels, each) for each in positive]
    assert figures["average_precision"].values_S == pytest.approx(pooled)
    assert figures["f1"].values_S == pytest.approx([f1_score(test.labels, each > 0.5) for each in positive])
    of_film = np.array([scene.movie_id for scene in test.scenes])
    per_film = [
        np.mean([average_precision_score(test.labels[of_film == f], each[of_film == f]) for f in set(of_film)])
        for each in positive
    ]
    assert figures["average_precision_per_film"].values_S == pytest.approx(per_film)
    for figure in figures.values():
        assert figure.interval.low <= figure.values_S.mean() <= figure.interval.high
    distances = []
    for _, before, after, _ in embedded.rows_NW[embedded.labeled.of_split("test")]:
        a, b = embedded.embeddings_ED[before], embedded.embeddings_ED[after]
        distances.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    trivial = task.trivial(probed)
    assert trivial["cosine_distance"]["average_precision"] == pytest.approx(
        average_precision_score(test.labels, distances)
    )
    assert trivial["prevalence"]["average_precision"] == pytest.approx(test.labels.mean())
    assert task.select(np.stack([1 - positive[0], positive[0]], axis=1), test.labels) == pytest.approx(pooled[0])


def test_boundaries_refuse_other_shots_and_leave_out_films():
    films = small_films()
    task, embeddings = boundary_task("movienet_boundaries", films), shots_of(films)
    with pytest.raises(LabelError, match=r"tt0000003: 13 shots have embeddings, but its shot list has 14"):
        join(task, Embeddings(Path("e"), {}, embeddings.ids[:-1], embeddings.vectors_ED[:-1]))
    without_last = join(task, shots_of(films[:3]))
    assert without_last.missing == {"train": 0, "validation": 0, "test": 13}
    assert {scene.movie_id for scene in without_last.labeled.scenes} == {film.movie_id for film in films[:3]}


def test_the_papers_retrieval_table_follows_from_its_counts():
    table = paper_tables()["lvu_place_retrieval"]
    classes, counts = list(PAPER_QUERIES), np.array(list(PAPER_QUERIES.values()))
    labels_Q = np.repeat(np.arange(len(classes)), counts)
    for row, printed in table["rows"].items():
        for column, k in enumerate((1, 5, 10)):
            percent = np.array([float(table["by_class"][row][name][column]) for name in classes])
            hits = np.rint(percent / 100 * counts * k)  # whole numbers of scenes
            shares_Q = np.repeat(hits / counts / k, counts)
            found = place_retrieval.summarize({k: shares_Q}, labels_Q, np.arange(len(labels_Q)), classes)
            mean = 100 * found["figures"][f"precision_at_{k}"]["mean"]
            assert mean == pytest.approx(float(printed[column]), abs=0.0101), (row, k)  # most cells are cut
            by_class = [100 * found["by_class"][f"precision_at_{k}"][name] for name in classes]
            assert by_class == pytest.approx(percent, abs=0.0101), (row, k)


def test_retrieval_against_a_loop(assets):
    (task,) = read_tasks(["lvu_place_retrieval"], assets / "labels/lvu_1.0")
    random = np.random.default_rng(6)
    ids = [scene.scene_id for scene in task.labeled.scenes][::-1]
    films = {film: random.normal(size=5) for film in sorted({scene.movie_id for scene in task.labeled.scenes})}
    film_of = {scene.scene_id: scene.movie_id for scene in task.labeled.scenes}
    vectors = np.stack([films[film_of[name]] + 0.1 * random.normal(size=5) for name in ids])
    retrieved = place_retrieval.retrieve(join(task, Embeddings(Path("e"), {}, ids, vectors)))
    scenes = list(
        zip(
            task.labeled.scenes,
            task.labeled.labels,
            [vectors[ids.index(s.scene_id)] for s in task.labeled.scenes],
            strict=True,
        )
    )
    queries = [each for each in scenes if each[0].split == "validation"]
    gallery = [each for each in scenes if each[0].split == "train"]
    assert (len(queries), len(gallery)) == (120, 557)
    for way in ("retrieval", "retrieval_of_other_films"):
        found = {k: [] for k in (1, 5, 10)}
        for number, (query, label, vector) in enumerate(queries):
            near = sorted(gallery, key=lambda each: np.linalg.norm(each[2] - vector))
            if way == "retrieval":
                assert retrieved.neighbors_Qk[number].tolist() == [each[0].scene_id for each in near[:10]]
            else:
                near = [each for each in near if each[0].movie_id != query.movie_id]
            for k, shares in found.items():
                shares.append(np.mean([each[1] == label for each in near[:k]]))
        for k, shares in found.items():
            assert retrieved.figures[way]["figures"][f"precision_at_{k}"]["mean"] == pytest.approx(
                np.mean(shares), abs=1e-6
            )
            offices = [share for share, query in zip(shares, queries, strict=True) if query[1] == 0]
            assert retrieved.figures[way]["by_class"][f"precision_at_{k}"]["office"] == pytest.approx(
                np.mean(offices), abs=1e-6
            )
    # Scenes of one film are near each other here, so that finding them is an advantage.
    nearest, elsewhere = (retrieved.figures[way]["figures"]["precision_at_1"]["mean"] for way in retrieved.figures)
    assert nearest > elsewhere + 0.1
    assert round(100 * retrieved.trivial["chance"]["precision_at_10"]) == 24


def test_retrieval_among_films_of_one_scene_has_no_figures_of_other_films(assets):
    """MA-LMM's labels know the clip, not its film."""
    (task,) = read_tasks(["lvu_place_retrieval"], assets / "labels/lvu_malmm_json")
    ids = [scene.scene_id for scene in task.labeled.scenes]
    vectors = np.random.default_rng(8).normal(size=(len(ids), 4))
    retrieved = place_retrieval.retrieve(join(task, Embeddings(Path("e"), {}, ids, vectors)))
    assert list(retrieved.figures) == ["retrieval"] and list(retrieved.trivial) == ["chance"]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def moderation_csv(path: Path, classes=moderation.CLASSES, count: int = 40) -> Path:
    rows = [
        f"clip{n},{classes[n % len(classes)]},tt{n:07d},{('train', 'validation', 'test')[n // 4 % 3]}"
        for n in range(count)
    ]
    return write(path, "video,label,film,split\n" + "\n".join(rows) + "\n")


def test_moderation_averages_the_three_activities(tmp_path):
    (task,) = read_tasks(["moderation"], moderation_csv(tmp_path / "clips.csv"))
    test = part(task.labeled, "test")
    scores = np.random.default_rng(7).dirichlet(np.ones(4), (2, len(test)))
    figures = task.measure(list(scores), test)
    expected = {
        name: [average_precision_score(test.labels == index, each[:, index]) for each in scores]
        for index, name in enumerate(task.labeled.classes)
    }
    for name, values in expected.items():
        assert figures[name].values_S == pytest.approx(values)
    average = np.mean([expected[name] for name in ("sex", "violence", "drug-use")], axis=0)
    assert figures["average"].values_S == pytest.approx(average)
    assert task.select(scores[0], test.labels) == pytest.approx(average[0])
    equal = task.measure([np.full((len(test), 4), 0.25)], test)
    trivial = task.trivial(probe_task(task.labeled))["prevalence"]
    assert {name: figure.values_S[0] for name, figure in equal.items()} == pytest.approx(trivial)
    perfect = task.measure([np.eye(4)[test.labels]], test)
    assert {figure.values_S[0] for figure in perfect.values()} == {1}
    assert set(paper_rows("moderation", "average")["CLIP"]) < figures.keys()


def test_moderation_with_other_classes(tmp_path):
    path = moderation_csv(tmp_path / "clips.csv", ("sex", "violence", "none"))
    with pytest.raises(
        LabelError, match=r"classes drug-use, none, sex, violence, this file none, sex, violence; .*own"
    ):
        read_tasks(["moderation"], path)


@pytest.mark.parametrize(("split", "name"), [("validation", "sex"), ("test", "none"), ("train", "violence")])
def test_moderation_needs_each_class_in_each_split(tmp_path, split, name):
    path = moderation_csv(tmp_path / "clips.csv")
    (task,) = read_tasks(["moderation"], path)
    kept = [
        scene.scene_id
        for scene, label in zip(task.labeled.scenes, task.labeled.labels, strict=True)
        if (scene.split, moderation.CLASSES[label]) != (split, name)
    ]
    with pytest.raises(LabelError, match=f"no scene of split {split} has the label '{name}'"):
        join(task, Embeddings(Path("e"), {}, kept, np.ones((len(kept), 2))))


def test_own_labels_of_three_kinds(tmp_path):
    rows = [f"v{n},{n % 2}.5,f{n},{('train', 'val', 'test')[n % 3]}" for n in range(9)]
    path = write(tmp_path / "own.csv", "video,label,film,split\n" + "\n".join(rows) + "\n")
    assert [read_tasks([name], path)[0].figure for name in ("own", "own/values")] == ["accuracy", "mean_squared_error"]
    path.write_text(path.read_text().replace("0.5", "0.5|x"))
    assert read_tasks(["own"], path)[0].figure == "mean_average_precision"
    with pytest.raises(LabelError, match="own has no task 'numbers'; it has values"):
        read_tasks(["own/numbers"], path)


def test_places_of_movienet_and_movieclip(tmp_path):
    films = {"train": ["tt0000001"], "val": ["tt0000002"], "test": ["tt0000003"]}
    write(tmp_path / "movie1K.split.v1.json", json.dumps({**films, "full": [each for (each,) in films.values()]}))
    for (film,) in films.values():
        scenes = [
            {"id": f"{film}_{n:04d}", "shot": [n, n + 1], "place_tag": ["bar", "pier"][: 1 + n % 2]} for n in range(20)
        ]
        write(tmp_path / f"annotation/{film}.json", json.dumps({"scene": scenes}))
    (task,) = read_tasks(["movienet_places"], tmp_path)
    assert (task.name, task.figure, task.labeled.classes) == (
        "movienet_places",
        "mean_average_precision",
        ("bar", "pier"),
    )
    assert clip_and_best(task.name, task.figure)["CLIP"] == {"mean_average_precision": "9.26"}
    assert task.recipe == "movienet_place.yaml"
    write(tmp_path / "multi_label_thresh_0_4_0_1_label_map.json", '{"bar": 0, "pier": 1}')
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}_multi_label_thresh_0_4_0_1_150_labels.txt", f"{name}/{name}-Scene-001.mp4 0 1\n")
    verified = "other/other-Scene-001.mp4 1\n"
    write(tmp_path / "test_shots_human_verified_multi_labels_v1_complete.txt", verified)
    clips, checked = (read_tasks([name], tmp_path)[0] for name in ("movieclip", "movieclip/verified"))
    assert [task.labeled.scenes[-1].movie_id for task in (clips, checked)] == ["test", "other"]
    assert clips.recipe == "own_tags.yaml"


def photographs(folder: Path, sizes=(6, 5)) -> Path:
    for part_name, size in zip(("train", "test"), sizes, strict=True):
        for name in ("bar", "pier", "zoo"):
            for number in range(size):
                write(folder / f"{part_name}/{name}/{number}.jpg", "")
    return folder


def test_photographs_of_several_pictures_are_drawn_by_class(tmp_path):
    folder = photographs(tmp_path / "pictures")
    single, several = (read_tasks([name], folder)[0] for name in ("photographs", "photographs/2"))
    assert (single.name, several.name) == ("photographs", "photographs/2")
    assert [len(task.labeled.scenes[0].pictures) for task in (single, several)] == [1, 2]
    test = part(several.labeled, "test")
    hits = np.resize([True, True, False], len(test))
    scores = np.eye(3)[np.where(hits, test.labels, (test.labels + 1) % 3)]
    by_class = several.measure([scores], test)["accuracy"]
    draws = np.random.default_rng(0).integers(3, size=(4000, 3))
    means = np.array([hits[test.labels == index].mean() for index in range(3)])
    assert by_class.interval == pytest.approx(np.quantile(means[draws].mean(1), [0.025, 0.975]), abs=0.03)
    assert by_class.interval != single.measure([scores], part(single.labeled, "test"))["accuracy"].interval
    with pytest.raises(LabelError, match="too few for scenes of 9"):
        read_tasks(["photographs/9"], folder)


def test_photographs_of_a_manifest(assets):
    folder = assets / "images/photographs"
    (task,) = read_tasks(["photographs/miniplaces/3"], folder)
    assert task.name == "photographs/miniplaces/3" and len(task.labeled.classes) == 100
    assert {len(scene.pictures) for scene in task.labeled.scenes} == {3}
    assert task.probes[-1] == "nearest"


def test_scenes_of_a_group_are_its_videos_once(assets):
    labels = assets / "labels/lvu_1.0"
    scenes = read_scenes(["lvu"], labels)
    assert len(scenes) == len({scene.scene_id for scene in scenes}) == 9996
    splits: dict[str, set[str]] = {}
    for task in read_tasks(["lvu"], labels):
        for scene in task.labeled.scenes:
            splits.setdefault(scene.scene_id, set()).add(scene.split)
    training = {scene.scene_id for scene in scenes if scene.split == "train"}
    assert training == {name for name, found in splits.items() if found == {"train"}}
    assert len(read_scenes(["lvu_place_retrieval"], labels)) == 677
    assert len(read_scenes(["lvu/scene", "lvu/relationship"], labels)) < 763 + 244


def test_tasks_and_scenes_that_do_not_go_together(tmp_path):
    photographs(tmp_path, sizes=(14, 5))
    with pytest.raises(LabelError, match=r"scene train/bar/0\.jpg is not the same part of a video in all tasks"):
        read_scenes(["photographs/2", "photographs/3"], tmp_path)
    with pytest.raises(LabelError, match=r"needs an embedding of each shot: run .*extract_features"):
        read_scenes(["movienet_boundaries"], tmp_path)
    for names in (["places"], ["lvu/scene", "own"], []):
        with pytest.raises(ValueError, match=r"must be of one of lvu, lvu_place_retrieval, .*movieclip"):
            group_of(names)


def test_the_papers_rows_go_by_our_names():
    rows = paper_rows("lvu/like_ratio", "mean_squared_error")
    assert rows["CLIP"] == {"mean_squared_error": "0.411"} and rows["SlowFast R101"] == {"mean_squared_error": "0.386"}
    assert list(clip_and_best("lvu/like_ratio", "mean_squared_error", higher_is_better=False)) == [
        "CLIP",
        "Movies2Scenes (co-watch)",
    ]
    assert "Movies2Scenes (genre+synopsis)" in clip_and_best("lvu/scene", "accuracy")
    assert clip_and_best("movienet_boundaries", "average_precision") == {
        "CLIP (cross-domain)": {"average_precision": "47.4"},
        "Movies2Scenes (cross-domain)": {"average_precision": "54.22"},
    }
    assert paper_rows("own", "accuracy") == paper_rows("lvu/other", "accuracy") == {}
    assert set(paper_tables()) <= set(TASKS)


def test_labeled_scenes_without_embedding_are_left_out_and_counted(tmp_path):
    (task,) = read_tasks(["moderation"], moderation_csv(tmp_path / "clips.csv"))
    scenes = task.labeled.scenes
    kept = [scene.scene_id for number, scene in enumerate(scenes) if number % 5][::-1]
    vectors = np.arange(2.0 * len(kept) + 4).reshape(-1, 2)
    embedded = join(task, Embeddings(Path("e"), {}, [*kept, "other", "another"], vectors))
    expected = {split: sum(s.split == split for s in scenes[::5]) for split in ("train", "validation", "test")}
    assert embedded.missing == expected and len(embedded.labeled) == len(kept)
    for scene, (row,), label in zip(embedded.labeled.scenes, embedded.rows_NW, embedded.labeled.labels, strict=True):
        assert kept[row] == scene.scene_id
        assert task.labeled.labels[[each.scene_id for each in scenes].index(scene.scene_id)] == label
    assert isinstance(embedded, Embedded) and embedded.embeddings_ED is vectors


def test_embeddings_of_other_scenes(tmp_path):
    (task,) = read_tasks(["moderation"], moderation_csv(tmp_path / "clips.csv"))
    message = r"moderation: none of the \d+ labeled scenes of split train has .* Labels name clip0, embeddings tt_1; "
    with pytest.raises(EmbeddingError, match=message):
        join(task, Embeddings(Path("e"), {}, ["tt_1", "tt_2"], np.ones((2, 3))))
    no_test = [scene.scene_id for scene in task.labeled.scenes if scene.split != "test"]
    with pytest.raises(EmbeddingError, match=r"none of the 12 labeled scenes of split test has .* clip8, .* clip0;"):
        join(task, Embeddings(Path("e"), {}, no_test, np.ones((len(no_test), 3))))


def test_embeddings_that_are_wrong():
    vectors = np.ones((3, 2))
    with pytest.raises(EmbeddingError, match="e holds no embeddings"):
        Embeddings(Path("e"), {}, [], vectors[:0])
    with pytest.raises(EmbeddingError, match="e: scene b has two embeddings"):
        Embeddings(Path("e"), {}, ["a", "b", "b"], vectors)
    vectors[1, 1] = np.nan
    with pytest.raises(EmbeddingError, match=r"e: 1 embeddings hold NaN or infinite values, that of b first"):
        Embeddings(Path("e"), {}, ["a", "b", "c"], vectors)


def dataset(folder: Path, rows: list[dict], settings=None) -> Path:
    stored = FilmDataset(folder, "scene_embeddings")
    stored.begin(settings or {"encoder": "scene", "model": "m", "revision": "1"})
    extent = {"movie_id": "tt1", "first_shot": 0, "num_shots": 1, "start_seconds": 0.0, "end_seconds": 1.0}
    stored.write_all([{**extent, "model": "m", "revision": "1", **row} for row in rows])
    return folder


def test_scene_embeddings_are_read(tmp_path):
    folder = dataset(tmp_path / "e", [{"scene_id": n, "embedding": [float(n), 2.0]} for n in "345"])
    found = read_scene_embeddings(folder)
    assert (found.ids, found.name, found.vectors_ED.tolist()) == (["3", "4", "5"], "m", [[3, 2], [4, 2], [5, 2]])
    assert found.settings["encoder"] == "scene"
    settings = {"encoder": "frames", "model": "moco/model", "revision": "1"}
    other = dataset(tmp_path / "f", [{"scene_id": "3", "embedding": [1.0]}], settings)
    assert read_scene_embeddings(other).name == "moco/model (frames)"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"model": "n"}, r"embeddings of 2 models, such as m \(revision 1\) and n \(1\)"),
        ({"revision": "2"}, r"embeddings of 2 models, such as m \(revision 1\) and m \(2\)"),
        ({"embedding": [1.0, 2.0, 3.0]}, r"embeddings of 2 and of 3 numbers"),
        ({"embedding": [1.0, float("inf")]}, r"1 embeddings hold NaN or infinite values, that of b first"),
        ({"scene_id": "a"}, r"scene a has two embeddings"),
    ],
)
def test_scene_embeddings_that_are_wrong(tmp_path, second, message):
    rows = [{"scene_id": "a", "embedding": [1.0, 2.0]}, {"scene_id": "b", "embedding": [1.0, 2.0], **second}]
    with pytest.raises(EmbeddingError, match=message):
        read_scene_embeddings(dataset(tmp_path / "e", rows))


def test_folders_without_finished_embeddings(tmp_path):
    with pytest.raises(EmbeddingError, match=r"no finished scene_embeddings dataset; run python -m eval\.embed_scenes"):
        read_scene_embeddings(tmp_path)
    folder = dataset(tmp_path / "e", [{"scene_id": "a", "embedding": [1.0]}])
    with pytest.raises(StorageError, match="shot_features"):
        read_shot_embeddings(folder)
    FilmDataset(folder, "scene_embeddings").reopen()
    with pytest.raises(EmbeddingError, match="no finished"):
        read_scene_embeddings(folder)


def test_shot_embeddings_are_named_by_film_and_shot(tmp_path):
    stored = FilmDataset(tmp_path, "shot_features")
    stored.begin({"encoder": "m", "revision": "1"})
    features = {"tt1": np.arange(6, dtype="<f2").reshape(3, 2), "tt2": np.ones((2, 2), "<f2")}
    for name, each in features.items():
        row = {"movie_id": name, "num_shots": len(each), "dim": 2, "dtype": "float16", "features": each.tobytes()}
        stored.write_film(name, [row], {})
    stored.finish(features, {})
    found = read_shot_embeddings(tmp_path)
    assert list(found.ids) == ["tt1/0000", "tt1/0001", "tt1/0002", "tt2/0000", "tt2/0001"]
    assert (found.vectors_ED == np.concatenate(list(features.values()))).all()
    assert found.name == "m"


def test_features_made_elsewhere(tmp_path):
    pq.write_table(pa.table({"scene_id": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "slow.parquet")
    found = read_feature_file(tmp_path / "slow.parquet")
    assert (list(found.ids), found.name, found.vectors_ED.tolist()) == (["a", "b"], "slow", [[1, 2], [3, 4]])
