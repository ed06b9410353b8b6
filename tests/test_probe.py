"""`eval.probe` as a command, on real labels and embeddings that hold them with known strength, and on wrong input."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, mean_squared_error

from eval import embed_scenes
from eval.probe import main
from eval.probes.probing import table_lines
from eval.tasks import Task, read_tasks
from modeling_m2s import M2SSceneForClassification
from modeling_m2s.pretrained_m2s import load_encoder
from modeling_m2s.storage_m2s import FilmDataset

WIDTH = 12
QUICK = "hidden_size: 16\nlearning_rate: 0.03\nbatch_size: 16\nepochs: 6\ndropout: 0.0\nstandardize: true\n"


def signal(tasks: list[Task], strength: float, width: int = WIDTH) -> dict[str, np.ndarray]:
    """For each scene, noise plus `strength` times the direction of its class, or times its value and one direction."""
    random = np.random.default_rng(0)
    vectors: dict[str, np.ndarray] = {}
    for task in tasks:
        labeled = task.labeled
        directions = random.normal(size=(max(1, len(labeled.classes)), width))
        for scene, label in zip(labeled.scenes, labeled.labels, strict=True):
            noise = np.random.default_rng(zlib.crc32(scene.scene_id.encode())).normal(size=width)
            vector = vectors.setdefault(scene.scene_id, noise)
            vector += strength * (directions[label] if labeled.classes else label * directions[0])
    return vectors


def features_of(path: Path, vectors: dict[str, np.ndarray]) -> Path:
    pq.write_table(pa.table({"scene_id": list(vectors), "embedding": [v.tolist() for v in vectors.values()]}), path)
    return path


def run(output: Path, *words) -> dict:
    main([*map(str, words), "--output", str(output)])
    return json.loads(output.read_text())


@pytest.fixture
def quick(tmp_path) -> Path:
    path = tmp_path / "quick.yaml"
    path.write_text(QUICK)
    return path


def test_a_stronger_signal_gives_better_figures_on_real_lvu_labels(assets, tmp_path, quick, capsys):
    labels, names = assets / "labels/lvu_1.0", ["lvu/scene", "lvu/like_ratio"]
    tasks = read_tasks(names, labels)
    quick.write_text(QUICK.replace("epochs: 6", "epochs: 30"))
    results = []
    for strength in (0.0, 0.4, 3.0):
        features = features_of(tmp_path / f"signal{strength}.parquet", signal(tasks, strength))
        words = ["--task", *names, "--labels", labels, "--features", features, "--seeds", 2, "--recipe", quick]
        results.append(run(tmp_path / f"{strength}.json", *words)["tasks"])
    for probe in ("mlp", "linear", "knn"):
        accuracy = [each["lvu/scene"]["probes"][probe]["figures"]["accuracy"]["mean"] for each in results]
        error = [each["lvu/like_ratio"]["probes"][probe]["figures"]["mean_squared_error"]["mean"] for each in results]
        assert accuracy[0] < accuracy[1] < accuracy[2] > 0.9, probe
        assert error[0] > error[1] > error[2], probe
    assert results[0]["lvu/scene"]["trivial"]["majority"]["accuracy"] == pytest.approx(23 / 86, abs=1e-6)
    assert round(results[0]["lvu/like_ratio"]["trivial"]["zero"]["mean_squared_error"], 4) == 0.6056
    printed = capsys.readouterr().out
    assert "CLIP (printed in the paper)" in printed and "52.9" in printed and "majority (trivial)" in printed
    assert "lvu/scene: 557 train, 120 validation, 86 test scenes; 0 without embedding" in printed


def test_results_are_those_of_the_predictions(assets, tmp_path, quick):
    labels, names = assets / "labels/lvu_1.0", ["lvu/relationship", "lvu/view_count"]
    tasks = read_tasks(names, labels)
    vectors = signal(tasks, 0.8)
    test_scenes = [scene.scene_id for scene in tasks[0].labeled.scenes if scene.split == "test"]
    for gone in test_scenes[:3]:
        vectors.pop(gone)
    features = features_of(tmp_path / "slow.parquet", vectors)
    words = ["--task", *names, "--labels", labels, "--features", features, "--seeds", 3, "--probes", "mlp", "knn"]
    found = run(tmp_path / "a/out.json", *words, "--recipe", quick, "--name", "ours")
    assert (found["task_group"], found["labels"], found["encoder"]["name"]) == ("lvu", "lvu_1.0", "ours")
    assert found["encoder"]["settings"].keys() == {"encoder", "model", "revision"}
    entry = found["tasks"]["lvu/relationship"]
    assert entry["scenes"] == {"train": 149, "validation": 53, "test": 39}
    assert entry["missing"]["test"] == 3 and entry["classes"][1] == "ex_boyfriend_ex_girlfriend"
    assert list(entry["probes"]) == ["mlp", "knn"] and entry["probes"]["mlp"]["recipe"]["epochs"] == 6
    seeds = [seed["accuracy"] for seed in entry["probes"]["mlp"]["seeds"]]
    figure = entry["probes"]["mlp"]["figures"]["accuracy"]
    assert (len(seeds), figure["mean"]) == (3, pytest.approx(np.mean(seeds), abs=1e-6))
    assert figure["interval"][0] <= figure["mean"] <= figure["interval"][1]
    rows = pq.read_table(tmp_path / "a/out.predictions.parquet").to_pylist()
    mine = [row for row in rows if row["task"] == "lvu/relationship"]
    assert [row["scene_id"] for row in mine] == test_scenes[3:]
    scores = np.array([row["scores"] for row in mine])
    assert scores.sum(1) == pytest.approx(np.ones(39))
    accuracy = accuracy_score([row["label"][0] for row in mine], scores.argmax(1))
    assert abs(accuracy - np.mean(seeds)) < 0.15  # the scores' mean over seeds, not the figures' mean
    values = [row for row in rows if row["task"] == "lvu/view_count"]
    assert {(len(row["scores"]), len(row["label"])) for row in values} == {(1, 0)}
    targets = tasks[1].labeled.labels[tasks[1].labeled.of_split("test")]
    assert [row["value"] for row in values] == targets.tolist()
    error = found["tasks"]["lvu/view_count"]["probes"]["mlp"]["figures"]["mean_squared_error"]["mean"]
    assert (
        mean_squared_error(targets, [row["scores"][0] for row in values]) < error
    )  # a mean's error is below the mean's
    run(tmp_path / "b/out.json", *words, "--recipe", quick, "--name", "ours")
    for name in ("out.json", "out.predictions.parquet"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert one.replace(b"/a/out", b"/b/out") == other


def test_place_retrieval_on_real_labels(assets, tmp_path):
    labels = assets / "labels/lvu_1.0"
    features = features_of(tmp_path / "f.parquet", signal(read_tasks(["lvu/scene"], labels), 4.0))
    words = ["--task", "lvu_place_retrieval", "--labels", labels, "--features", features]
    entry = run(tmp_path / "out.json", *words)["tasks"]["lvu_place_retrieval"]
    assert entry["scenes"] == {"train": 557, "validation": 120, "test": 0}
    for way in ("retrieval", "retrieval_of_other_films"):
        assert entry["probes"][way]["figures"]["precision_at_1"]["mean"] > 0.95
        assert entry["probes"][way]["by_class"]["precision_at_5"].keys() == set(entry["classes"])
    rows = pq.read_table(tmp_path / "out.predictions.parquet").to_pylist()
    assert len(rows) == 120 and {len(row["neighbors"]) for row in rows} == {10}
    scenes = read_tasks(["lvu/scene"], labels)[0].labeled
    label_of = {scene.scene_id: label for scene, label in zip(scenes.scenes, scenes.labels, strict=True)}
    assert all(row["neighbor_labels"] == [label_of[each] for each in row["neighbors"]] for row in rows)
    with pytest.raises(SystemExit, match="lvu_place_retrieval trains nothing: leave out probes, recipe and export"):
        main([*map(str, words), "--output", str(tmp_path / "out.json"), "--probes", "knn"])


def scene318(folder: Path, films: int = 9) -> dict[str, np.ndarray]:
    """Labels as MovieNet has them, and shots that are near each other within a scene."""
    random, vectors, splits = np.random.default_rng(0), {}, {"train": [], "val": [], "test": []}
    for name in ("label318", "shot_movie318", "meta"):
        (folder / name).mkdir(parents=True)
    for number in range(films):
        movie_id, ends = f"tt{number:07d}", np.cumsum(random.integers(30, 90, 40)) - 1
        splits[("train", "val", "test")[number % 3]].append(movie_id)
        labels = random.random(39) < 0.25
        scenes = random.normal(size=(40, 4))[np.r_[0, np.cumsum(labels)]]
        for shot in range(40):
            vectors[f"{movie_id}/{shot:04d}"] = scenes[shot] + 0.2 * random.normal(size=4)
        starts = np.r_[0, ends[:-1] + 1]
        shots = [f"{a} {b} {a} {a} {a}\n" for a, b in zip(starts, ends, strict=True)]
        (folder / f"shot_movie318/{movie_id}.txt").write_text("".join(shots))
        text = "".join(f"{shot:04d} {int(label)}\n" for shot, label in enumerate(labels))
        (folder / f"label318/{movie_id}.txt").write_text(text)
    splits["all"] = [movie_id for part in splits.values() for movie_id in part]
    (folder / "meta/split318.json").write_text(json.dumps(splits))
    return vectors


def test_scene_boundaries(tmp_path):
    vectors = scene318(tmp_path / "labels")
    stored = FilmDataset(tmp_path / "features", "shot_features")
    stored.begin({"encoder": "m", "revision": "1"})
    for film in range(9):
        shots = np.stack([vector for name, vector in vectors.items() if name.startswith(f"tt{film:07d}")]).astype("<f2")
        row = {"movie_id": f"tt{film:07d}", "num_shots": 40, "dim": 4, "dtype": "float16", "features": shots.tobytes()}
        stored.write_film(row["movie_id"], [row], {})
    stored.finish([f"tt{film:07d}" for film in range(9)], {})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(QUICK.replace("epochs: 6", "epochs: 60").replace("0.03", "0.2"))
    words = ["--task", "movienet_boundaries", "--labels", tmp_path / "labels", "--recipe", recipe, "--seeds", 2]
    entry = run(tmp_path / "out.json", *words, "--embeddings", tmp_path / "features")["tasks"]["movienet_boundaries"]
    assert list(entry["probes"]) == ["mlp"] and entry["scenes"]["test"] == 3 * 39
    reached = entry["probes"]["mlp"]["figures"]["average_precision"]["mean"]
    prevalence, cosine = (entry["trivial"][name]["average_precision"] for name in ("prevalence", "cosine_distance"))
    assert reached > prevalence + 0.3 and cosine > prevalence + 0.3
    rows = pq.read_table(tmp_path / "out.predictions.parquet").to_pylist()
    assert rows[0]["scene_id"] == "tt0000002/0000" and rows[0]["label"] in ([0], [1]) and len(rows) == 3 * 39
    other = run(tmp_path / "o.json", *words, "--features", features_of(tmp_path / "f.parquet", vectors))
    found = other["tasks"]["movienet_boundaries"]["trivial"]["cosine_distance"]["average_precision"]
    assert found == pytest.approx(cosine, abs=0.01)  # but for float16


def test_own_values_moderation_and_photographs(tmp_path, quick):
    random = np.random.default_rng(0)
    vectors = {f"v{n}": random.normal(size=3) for n in range(60)}
    (tmp_path / "ids.txt").write_text("\n".join(vectors) + "\n")
    np.save(tmp_path / "ids.npy", np.stack(list(vectors.values())))
    splits = [("train", "train", "val", "test")[n % 4] for n in range(60)]
    values = [
        f"v{n},{vector[0]:.4f},f{n // 2},{split}"
        for n, (vector, split) in enumerate(zip(vectors.values(), splits, strict=True))
    ]
    (tmp_path / "own.csv").write_text("video,label,film,split\n" + "\n".join(dict.fromkeys(values)) + "\n")
    words = ["--labels", tmp_path / "own.csv", "--features", tmp_path / "ids.npy", "--seeds", 1, "--recipe", quick]
    entry = run(tmp_path / "own.json", "--task", "own/values", *words)["tasks"]["own/values"]
    assert entry["probes"]["linear"]["figures"]["mean_squared_error"]["mean"] < 0.05
    assert not entry["higher_is_better"] and entry["films"] == 30
    names = ("drug-use", "none", "sex", "violence")
    rows = [
        f"v{n},{names[(vectors[f'v{n}'][0] > 0) * 2 + (vectors[f'v{n}'][1] > 0)]},f{n},{splits[n]}" for n in range(60)
    ]
    (tmp_path / "clips.csv").write_text("video,label,film,split\n" + "\n".join(rows) + "\n")
    words[1] = tmp_path / "clips.csv"
    entry = run(tmp_path / "moderation.json", "--task", "moderation", *words)["tasks"]["moderation"]
    figures = entry["probes"]["linear"]["figures"]
    assert figures.keys() == {*names, "average"} and figures["average"]["mean"] > 0.8
    assert len([line for line in table_lines("moderation", entry) if "printed in the paper" in line]) == 2
    for part in ("train", "test"):
        for name in ("bar", "pier"):
            (tmp_path / f"pictures/{part}/{name}").mkdir(parents=True)
            for number in range(8):
                (tmp_path / f"pictures/{part}/{name}/{number}.jpg").touch()
    tasks = read_tasks(["photographs"], tmp_path / "pictures")
    features = features_of(tmp_path / "pictures.parquet", signal(tasks, 5.0))
    words[1], words[3] = tmp_path / "pictures", features
    entry = run(tmp_path / "photographs.json", "--task", "photographs", *words)["tasks"]["photographs"]
    assert entry["probes"]["nearest"] == {"chosen": {"k": 1}, **entry["probes"]["nearest"]}
    assert entry["probes"]["nearest"]["figures"]["accuracy"]["mean"] == 1


def test_what_a_reader_must_know_stands_below_the_table(tmp_path, quick):
    """Films of test and train, and seeds that diverged; with own values by the recipe that ships."""
    random = np.random.default_rng(1)
    vectors = {f"v{n}": random.normal(size=3) for n in range(40)}
    splits = [("train", "train", "val", "test")[n % 4] for n in range(40)]
    lines = [
        f"v{n},{50 + 20 * vector[0]:.2f},f{n // 4 if n < 8 else n},{splits[n]}"
        for n, vector in enumerate(vectors.values())
    ]
    (tmp_path / "own.csv").write_text("video,label,film,split\n" + "\n".join(lines) + "\n")
    words = ["--task", "own/values", "--labels", tmp_path / "own.csv", "--seeds", 2, "--probes", "mlp"]
    words += ["--features", features_of(tmp_path / "f.parquet", vectors)]
    entry = run(tmp_path / "out.json", *words)["tasks"]["own/values"]
    assert (entry["shared_films"], entry["test_films"]) == (2, 10)
    assert "  2 of 10 test films are also in train" in table_lines("own/values", entry)
    error = entry["probes"]["mlp"]["figures"]["mean_squared_error"]["mean"]
    assert error < 0.3 * entry["trivial"]["mean"]["mean_squared_error"]
    assert not any("diverged" in line for line in table_lines("own/values", entry))
    entry["probes"]["mlp"]["seeds"][1]["chosen"]["diverged_after"] = 7
    assert any("mlp: 1 of 2 seeds diverged, after epochs 7;" in line for line in table_lines("own/values", entry))


@pytest.fixture
def embedded(tmp_path, tiny_folder) -> dict:
    """A task of two classes, and embeddings that say they are the tiny model's."""
    revision = load_encoder(str(tiny_folder))[2]
    random = np.random.default_rng(0)
    rows, lines = [], []
    for number in range(40):
        label, split = number % 2, ("train", "train", "val", "test")[number // 2 % 4]
        vector = random.normal(size=32).astype(np.float32) + label
        extent = {"first_shot": 0, "num_shots": 1, "start_seconds": 0.0, "end_seconds": 1.0}
        rows.append({"scene_id": f"v{number:02d}", "movie_id": f"v{number:02d}", **extent, "embedding": vector})
        lines.append(f"v{number:02d},{('night', 'day')[label]},f{number},{split}")
    (tmp_path / "own.csv").write_text("video,label,film,split\n" + "\n".join(lines) + "\n")
    settings = {"encoder": "scene", "model": "tiny", "revision": revision, "vector": "pooler_output", "read": "evenly"}

    def write(**changes) -> Path:
        shutil.rmtree(tmp_path / "e", ignore_errors=True)
        stored = FilmDataset(tmp_path / "e", "scene_embeddings")
        stored.begin({**settings, **changes})
        stored.write_all([{**row, "model": "tiny", "revision": settings["revision"]} for row in rows])
        return tmp_path / "e"

    return {"write": write, "labels": tmp_path / "own.csv", "rows": rows}


def test_the_best_probe_is_exported_as_a_classifier(tmp_path, tiny_folder, embedded, quick):
    words = ["--task", "own", "--labels", embedded["labels"], "--embeddings", embedded["write"](), "--recipe", quick]
    export = ["--export", tmp_path / "models", "--model", tiny_folder]
    found = run(tmp_path / "out.json", *words, *export, "--seeds", 2, "--probes", "mlp")
    assert found["encoder"]["name"] == "tiny"
    model = M2SSceneForClassification.from_pretrained(tmp_path / "models/own").eval()
    assert model.config.id2label == {0: "day", 1: "night"}
    rows = pq.read_table(tmp_path / "out.predictions.parquet").to_pylist()
    vectors = {row["scene_id"]: row["embedding"] for row in embedded["rows"]}
    inputs = np.stack([vectors[row["scene_id"]] for row in rows])
    logits = model.classifier(model.scene_model.visual_projection.weight.new_tensor(inputs)).detach().numpy()
    hits = logits.argmax(1) == [row["label"][0] for row in rows]
    assert hits.mean() in [
        pytest.approx(seed["accuracy"], abs=1e-5) for seed in found["tasks"]["own"]["probes"]["mlp"]["seeds"]
    ]


def test_results_come_onto_the_card_of_the_encoder_that_was_measured(tmp_path, tiny_folder, embedded, quick):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    words = ["--task", "own", "--labels", embedded["labels"], "--recipe", quick, "--seeds", 1, "--probes", "mlp"]
    card = ["--card", model, "--hub-dataset", "someone/own"]
    embeddings = embedded["write"](average_neighbors=2)
    found = run(tmp_path / "out.json", *words, "--embeddings", embeddings, *card)
    lines = (model / "README.md").read_text().splitlines()
    (figures,) = (probe["figures"] for probe in found["tasks"]["own"]["probes"].values())
    assert any(line.startswith(f"| mlp | {figures['accuracy']['mean']:.3f} (") for line in lines)
    assert "Embeddings: encoder scene, vector pooler_output, read evenly, average neighbors 2." in lines
    assert [path.name for path in (model / ".eval_results").iterdir()] == ["someone_own.yaml"]
    with pytest.raises(SystemExit, match=r"is revision \w+, but revision other was measured"):
        run(tmp_path / "other.json", *words, "--embeddings", embedded["write"](revision="other"), *card)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "frames"}, "encoder is 'frames', but a classifier of frames has 'scene'"),
        ({"vector": "scene_embeds"}, "vector is 'scene_embeds', but a classifier of frames has 'pooler_output'"),
        ({"read": "windows"}, "read is 'windows', but a classifier of frames has 'evenly'"),
        ({"average_neighbors": 1}, "average_neighbors is 1, but a classifier of frames has None"),
        ({"revision": "other"}, "has embeddings of revision other of tiny, but .* is revision"),
        ({"model": "nowhere"}, "its encoder nowhere cannot be loaded by that name; give --model"),
    ],
)
def test_embeddings_that_no_exported_classifier_would_have(tmp_path, tiny_folder, embedded, changes, message):
    model = [] if "model" in changes else ["--model", str(tiny_folder)]
    words = ["--task", "own", "--labels", embedded["labels"], "--embeddings", embedded["write"](**changes)]
    with pytest.raises(SystemExit, match=message):
        run(tmp_path / "out.json", *words, "--export", tmp_path / "models", *model)
    assert not (tmp_path / "out.json").exists()


def test_wrong_input_is_one_line(tmp_path, embedded, quick):
    folder, labels = embedded["write"](), embedded["labels"]
    good = {"--task": "own", "--labels": labels, "--embeddings": folder, "--recipe": quick, "--seeds": 1}
    nan = features_of(tmp_path / "nan.parquet", {"v00": np.array([1.0, np.nan]), "v01": np.ones(2)})
    others = features_of(tmp_path / "others.parquet", {"tt_1": np.ones(2), "tt_2": np.ones(2)})
    one = tmp_path / "one.csv"
    one.write_text(labels.read_text().replace("night", "day"))
    unlabeled = tmp_path / "unlabeled.csv"
    unlabeled.write_text(labels.read_text().replace("label", "tag"))
    overlap = tmp_path / "overlap.csv"
    overlap.write_text("video,start,end,label,split\nv00,0,5,a,train\nv00,4,9,b,test\n")
    for changes, message in (
        ({"--task": "places"}, "task 'places' must be of one of lvu,"),
        ({"--labels": tmp_path / "gone.csv"}, "gone.csv"),
        ({"--labels": one}, "all 20 training scenes have the same label, day; there is nothing to learn"),
        ({"--labels": unlabeled}, r"unlabeled\.csv.*label"),
        ({"--labels": overlap}, r"overlap\.csv, line 3"),
        ({"--embeddings": tmp_path}, "no finished scene_embeddings dataset"),
        ({"--embeddings": None, "--features": nan}, "1 embeddings hold NaN or infinite values, that of v00 first"),
        ({"--embeddings": None, "--features": others}, "Labels name v00, embeddings tt_1"),
        ({"--features": nan}, "give --embeddings or --features, one of them"),
        ({"--embeddings": None}, "give --embeddings or --features, one of them"),
        ({"--probes": "svm"}, "probes 'svm' must be of mlp, linear, knn, nearest"),
        ({"--probes": "knn", "--export": tmp_path / "m"}, "export saves MLPs"),
        ({"--probes": "knn", "--recipe": None, "--seeds": 3}, "--seeds 3 is for MLPs"),
        ({"--model": tmp_path / "m"}, "--model .*m is for --export"),
        ({"--seeds": 0}, "seeds=0 must be at least 1"),
        ({"--output": tmp_path / "out.txt"}, r"output .*out\.txt must end in \.json"),
    ):
        flags = {**good, "--output": tmp_path / "out.json", **changes}
        words = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
        with pytest.raises(SystemExit, match=message):
            main(words)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_all_nine_tasks_by_one_command(assets, tmp_path, quick):
    labels = assets / "labels/lvu_1.0"
    features = features_of(tmp_path / "f.parquet", signal(read_tasks(["lvu"], labels), 3.0, width=64))
    words = ["--task", "lvu", "--labels", labels, "--features", features, "--seeds", 1, "--recipe", quick]
    tasks = run(tmp_path / "out.json", *words)["tasks"]
    assert len(tasks) == 9
    for name, entry in tasks.items():
        figure = entry["figure"]
        reached = entry["probes"]["linear"]["figures"][figure]["mean"]
        trivial = [each[figure] for each in entry["trivial"].values()]
        assert (reached > max(trivial)) if entry["higher_is_better"] else (reached < min(trivial)), name


def test_scenes_of_a_task_are_embedded_and_probed_by_two_commands(tmp_path, quick):
    for part in ("train", "test"):
        for name, value in (("dark", 40), ("light", 210)):
            (tmp_path / f"pictures/{part}/{name}").mkdir(parents=True)
            for number in range(8):
                picture = Image.new("RGB", (40, 30), (value, number, number))
                picture.save(tmp_path / f"pictures/{part}/{name}/{number}.png")
    task = ["--task", "photographs", "--labels", str(tmp_path / "pictures")]
    pictures = [
        "--pictures",
        str(tmp_path / "pictures"),
        "--encoder",
        "frames",
        "--device",
        "cpu",
        "--num-workers",
        "0",
    ]
    embed_scenes.main([*task, *pictures, "--output", str(tmp_path / "e")])
    words = [*task, "--embeddings", tmp_path / "e", "--probes", "nearest"]
    found = run(tmp_path / "out.json", *words)
    assert found["tasks"]["photographs"]["probes"]["nearest"]["figures"]["accuracy"]["mean"] == 1
    assert found["encoder"]["name"] == "m2s-clip-tiny (frames)" and found["encoder"]["settings"]["encoder"] == "frames"
    for words in (["--labels", "x"], ["--task", "own"], ["--scenes", "x.csv", *task], []):
        with pytest.raises(SystemExit, match="name the scenes: give --task with --labels, or --scenes"):
            embed_scenes.main([*words, *pictures, "--output", str(tmp_path / "e")])
