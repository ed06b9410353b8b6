"""Modules of the `evaluate` library: by class, and by path in a fresh process without network or caches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from eval.metrics.boundaries import ScoredFilm, boundary_metrics
from eval.metrics.boundary_detection import BoundaryDetection
from eval.metrics.mean_average_precision import MeanAveragePrecision
from eval.metrics.precision_at_k import PrecisionAtK

FOLDER = Path(__file__).parent.parent / "eval/metrics"
MODULES = {
    "precision_at_k": PrecisionAtK,
    "mean_average_precision": MeanAveragePrecision,
    "boundary_detection": BoundaryDetection,
}

LOAD = """
import json, sys
import evaluate
folder, inputs = sys.argv[1], json.load(sys.stdin)
found = {name: evaluate.load(f"{folder}/{name}.py").compute(**values) for name, values in inputs.items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def inputs() -> dict[str, dict]:
    random = np.random.default_rng(0)
    queries, gallery = random.normal(size=(11, 4)).astype("f4"), random.normal(size=(37, 4)).astype("f4")
    shots = (13, 0, 29)
    return {
        "precision_at_k": {
            "predictions": queries.tolist(),
            "references": random.integers(3, size=11).tolist(),
            "gallery": gallery.tolist(),
            "gallery_labels": random.integers(3, size=37).tolist(),
            "k": [1, 5],
        },
        "mean_average_precision": {
            "predictions": random.random((19, 3)).tolist(),
            "references": np.column_stack([random.integers(2, size=(19, 2)), np.zeros(19, int)]).tolist(),
        },
        "boundary_detection": {
            "predictions": [random.random(count).tolist() for count in shots],
            "references": [random.integers(2, size=count).tolist() for count in shots],
            "end_frames": [(40 * np.arange(1, count + 1)).tolist() for count in shots],
        },
    }


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory) -> dict[str, dict]:
    """Each module's result, by class."""
    cache = str(tmp_path_factory.mktemp("evaluate"))
    return {name: module(cache_dir=cache).compute(**inputs[name]) for name, module in MODULES.items()}


def test_precision_at_k(inputs, results):
    values, found = inputs["precision_at_k"], results["precision_at_k"]
    nearest = KNeighborsClassifier(n_neighbors=1).fit(values["gallery"], values["gallery_labels"])
    assert found["precision_at_1"] == pytest.approx(nearest.score(values["predictions"], values["references"]))
    counts = np.bincount(values["gallery_labels"], minlength=3)
    assert found["chance"] == pytest.approx(np.mean([counts[label] / 37 for label in values["references"]]))
    by_class, sizes = found["by_class"]["precision_at_5"], np.bincount(values["references"])
    assert sum(by_class[label] * sizes[label] for label in by_class) / 11 == pytest.approx(found["precision_at_5"])


def test_mean_average_precision(inputs, results):
    scores, labels = (np.array(inputs["mean_average_precision"][name]) for name in ("predictions", "references"))
    expected = [average_precision_score(labels[:, number], scores[:, number]) for number in range(2)]
    found = results["mean_average_precision"]
    assert found["mean_average_precision"] == pytest.approx(np.mean(expected))
    assert found["average_precision"] == [pytest.approx(expected[0]), pytest.approx(expected[1]), None]
    assert found["chance"] == pytest.approx(labels[:, :2].mean())


def test_boundary_detection(inputs, results):
    columns = zip(*inputs["boundary_detection"].values(), strict=True)
    films = [ScoredFilm(*(np.array(column) for column in film)) for film in columns]
    assert results["boundary_detection"] == pytest.approx(boundary_metrics(films))


def test_loaded_by_path_without_network(inputs, results, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    command = [sys.executable, "-c", LOAD, str(FOLDER)]
    # The working directory is none from which the package could be imported.
    done = subprocess.run(
        command, input=json.dumps(inputs), capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(results))
    copied = {path.name for path in (tmp_path / "home").rglob("*.py")}
    assert copied >= {f"{name}.py" for name in MODULES}


def test_every_module_says_what_it_takes():
    for module in MODULES.values():
        described = module(keep_in_memory=True)
        assert described.description and described.citation.startswith("@")
        for name in described.features:
            assert f"{name}:" in described.inputs_description
