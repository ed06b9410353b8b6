"""Probes against loops written out, alone and beside others; what they refuse; the exported model on a video."""

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_videos import make_video
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, pipeline

from data_scripts.formats.labeled_scenes import LabeledScene, LabeledScenes
from eval.probes import (
    MLP,
    ProbeError,
    ProbeJob,
    ProbeRecipe,
    ProbeTask,
    default_metric,
    export_classifier,
    knn_probe,
    linear_probe,
    read_recipe,
    train_probes,
)
from eval.probes import mlp as mlp_module
from eval.probes.mlp import Draws, dropout_threshold
from modeling_m2s import M2SSceneForClassification, M2SSceneModel, M2SSceneProcessor
from modeling_m2s.errors_m2s import UserError
from modeling_m2s.pipeline_m2s import open_image
from modeling_m2s.shots_m2s import detect_shots

CONFIGS = Path(__file__).parent.parent / "eval/configs"
SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"


def task_of(
    problem: str = SINGLE, sizes=(37, 11, 13), classes: int = 3, width: int = 6, windows: int = 1, seed: int = 0
):
    """Scenes whose embeddings hold their labels, in mixed order of splits."""
    random = np.random.default_rng(seed)
    splits = random.permutation(np.repeat(["train", "validation", "test"], sizes)).tolist()
    scenes = tuple(LabeledScene(f"s{n}", f"tt{n % 5}", f"v{n}", split) for n, split in enumerate(splits))
    embeddings = random.normal(size=(len(scenes) + windows - 1, width)).astype(np.float32)
    names = tuple("abcdefghij"[:classes])
    if problem == SINGLE:
        labels = random.integers(classes, size=len(scenes))
        embeddings[: len(scenes), :classes] += 2 * np.eye(classes)[labels]
    elif problem == MULTI:
        labels = random.random((len(scenes), classes)) < 0.3
        embeddings[: len(scenes), :classes] += 2 * labels
    else:
        labels, names = random.normal(size=len(scenes)), ()
        embeddings[: len(scenes), 0] += 2 * labels
    rows = np.arange(len(scenes))[:, None] + np.arange(windows) if windows > 1 else None
    return ProbeTask(LabeledScenes(f"{problem} {seed}", problem, scenes, labels, names), embeddings, rows)


def changed(task: ProbeTask, **fields) -> ProbeTask:
    """The task with other labels, classes or embeddings."""
    embeddings = fields.pop("embeddings_ED", task.embeddings_ED)
    return ProbeTask(replace(task.labeled, **fields), embeddings)


class Mask(nn.Module):
    """Dropout by given masks, in turn."""

    def __init__(self, dropout: float, masks: list[torch.Tensor]):
        super().__init__()
        self.dropout, self.masks = dropout, masks

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.masks.pop(0)[: len(hidden)] / (1 - self.dropout) if self.training else hidden


def written_out(job: ProbeJob) -> tuple[nn.Sequential, int, float]:
    """The obvious training: autograd and torch's optimizer; the best epoch's network, its number and its figure."""
    task, recipe, draws, masks = job.task, job.recipe, Draws(job.seed), []
    width, hidden = task.width, recipe.hidden_size
    model = nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        Mask(recipe.dropout, masks),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        Mask(recipe.dropout, masks),
        nn.Linear(hidden, task.num_outputs),
    )
    with torch.no_grad():
        for layer in (model[0], model[3], model[6]):
            weights, biases = draws.layer(layer.in_features, layer.out_features)
            layer.weight.copy_(torch.from_numpy(weights.T))
            layer.bias.copy_(torch.from_numpy(biases))
    inputs = {split: torch.from_numpy(task.inputs(split)) for split in ("train", "validation")}
    labels = torch.from_numpy(task.labels("train"))
    loss_of = {
        SINGLE: F.cross_entropy,
        MULTI: lambda logits, labels: nn.BCEWithLogitsLoss()(logits, labels.float()),
        VALUE: lambda logits, labels: nn.MSELoss()(logits[:, 0], labels.float()),
    }[task.problem]
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate)
    batch_size = min(recipe.batch_size, len(labels))
    best = (copy.deepcopy(model), 0, -np.inf)
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        for batch in torch.from_numpy(draws.order(len(labels))).split(batch_size):
            if recipe.dropout:
                bits = draws.dropout_bits(2 * batch_size * hidden).reshape(2, batch_size, hidden)
                masks.extend(torch.from_numpy(bits >= dropout_threshold(recipe.dropout)).float())
            else:
                masks.extend(torch.ones(2, batch_size, hidden))
            optimizer.zero_grad()
            loss_of(model(inputs["train"][batch]), labels[batch]).backward()
            optimizer.step()
        if epoch % recipe.validate_every and epoch < recipe.epochs:
            continue
        model.eval()
        with torch.no_grad():
            scores = scores_of(model(inputs["validation"]), task.problem)
        reached = default_metric(task.problem)(scores, task.labels("validation"))
        if reached > best[2]:
            best = copy.deepcopy(model), epoch, reached
    return best


def scores_of(logits: torch.Tensor, problem: str) -> np.ndarray:
    if problem == VALUE:
        return logits[:, 0].double().numpy()
    return (logits.double().softmax(1) if problem == SINGLE else logits.double().sigmoid()).numpy()


def assert_equals_the_loop(job: ProbeJob, result) -> None:
    model, epoch, reached = written_out(job)
    assert result.task == job.task.labeled.task and result.chosen == {"epoch": epoch}
    assert result.validation_metric == pytest.approx(reached, rel=1e-4)
    for number, (weight, bias) in enumerate(zip(result.mlp.weights, result.mlp.biases, strict=True)):
        layer = model[3 * number]
        np.testing.assert_allclose(weight, layer.weight.detach().numpy().T, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(bias, layer.bias.detach().numpy(), rtol=1e-4, atol=1e-5)


RECIPE = ProbeRecipe(hidden_size=9, learning_rate=0.1, batch_size=8, epochs=5, dropout=0.0)


@pytest.mark.parametrize("problem", [SINGLE, MULTI, VALUE])
@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.875])
# 37 scenes: all batches of 1, a last batch of 5, one of 1, one batch of all. Rates at which rounding does not grow.
@pytest.mark.parametrize(("batch_size", "learning_rate"), [(1, 0.01), (8, 0.05), (36, 0.2), (4096, 0.2)])
def test_equals_the_loop_written_out(problem, dropout, batch_size, learning_rate):
    recipe = replace(RECIPE, dropout=dropout, batch_size=batch_size, learning_rate=learning_rate)
    job = ProbeJob(task_of(problem), recipe, seed=3)
    (result,) = train_probes([job])
    assert_equals_the_loop(job, result)


@pytest.mark.parametrize("fields", [{"validate_every": 2}, {"learning_rate": 0.3, "epochs": 12}, {"hidden_size": 1}])
@pytest.mark.parametrize("windows", [1, 4])
def test_settings_do_what_they_say(fields, windows):
    job = ProbeJob(task_of(windows=windows), replace(RECIPE, **fields), seed=1)
    assert_equals_the_loop(job, train_probes([job])[0])


@pytest.mark.parametrize("problem", [SINGLE, VALUE])
def test_standardizing_is_training_on_standardized_embeddings(problem):
    task = task_of(problem, windows=1)
    task.embeddings_ED[:] = task.embeddings_ED * np.array([1, 10, 0.1, 5, 2, 0]) + np.array([0, 7, -3, 1, 2, 4])
    training = task.inputs("train").astype(np.float64)
    deviation = np.where(training.std(0) > 0, training.std(0), 1)
    labels, mean, scale = task.labeled.labels, 0.0, 1.0
    if problem == VALUE:
        labels = 50 + 20 * labels
        task = changed(task, labels=labels)
        mean, scale = task.labels("train").mean(), task.labels("train").std()
        labels = (labels - mean) / scale
    embeddings = ((task.embeddings_ED - training.mean(0)) / deviation).astype(np.float32)
    by_hand = changed(task, embeddings_ED=embeddings, labels=labels)
    (found,) = train_probes([ProbeJob(task, replace(RECIPE, standardize=True), 2)])
    (expected,) = train_probes([ProbeJob(by_hand, RECIPE, 2)])
    np.testing.assert_allclose(found.test_scores, mean + scale * expected.test_scores, rtol=1e-4, atol=1e-5)
    if problem == VALUE:
        assert found.validation_metric == pytest.approx(scale**2 * expected.validation_metric, rel=1e-4)
    logits = torch.from_numpy(found.mlp.logits(task.inputs("test")))
    np.testing.assert_allclose(scores_of(logits, problem), found.test_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("probes_at_once", [None, 2])
def test_a_probe_learns_the_same_alone_and_beside_others(probes_at_once):
    """Other numbers of classes, scenes, epochs, rates, dropouts and batch sizes beside it."""
    shared = task_of(seed=1)
    tasks = [shared, task_of(sizes=(20, 5, 5), classes=7, width=8, seed=2), task_of(classes=2, seed=3)]
    tasks += [task_of(MULTI, classes=4, seed=4), task_of(MULTI, classes=2, seed=5), task_of(VALUE, seed=6)]
    tasks += [task_of(windows=2, seed=7), task_of(windows=2, seed=8, classes=5)]
    jobs = [
        ProbeJob(
            task,
            replace(RECIPE, dropout=(0.0, 0.5)[n % 2], learning_rate=0.02 * (n + 1), epochs=2 + n, standardize=n == 2),
            seed,
        )
        for n, task in enumerate(tasks)
        for seed in range(2)
    ]
    jobs.append(ProbeJob(shared, replace(RECIPE, batch_size=16), 1))
    for job, together in zip(jobs, train_probes(jobs, probes_at_once=probes_at_once), strict=True):
        (alone,) = train_probes([job])
        assert (together.task, together.chosen) == (job.task.labeled.task, alone.chosen)
        np.testing.assert_allclose(together.test_scores, alone.test_scores, rtol=1e-4, atol=1e-5)
        for found, expected in zip(together.mlp.weights, alone.mlp.weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_seeds_differ_and_repeat():
    task = task_of()
    first, again, other = train_probes([ProbeJob(task, replace(RECIPE, dropout=0.5), seed) for seed in (4, 4, 5)])
    np.testing.assert_allclose(first.test_scores, again.test_scores, rtol=1e-5)
    assert np.abs(first.test_scores - other.test_scores).max() > 1e-3


def test_scores_are_of_the_scenes_in_order():
    task = task_of(windows=3)
    (result,) = train_probes([ProbeJob(task, RECIPE)])
    numbers = [n for n, scene in enumerate(task.labeled.scenes) if scene.split == "test"]
    inputs = np.stack([np.concatenate([task.embeddings_ED[n + w] for w in range(3)]) for n in numbers])
    logits = torch.from_numpy(result.mlp.logits(inputs))
    np.testing.assert_allclose(result.test_scores, scores_of(logits, SINGLE), rtol=1e-4, atol=1e-6)


def test_the_best_epoch_is_kept_by_the_given_metric():
    """The first of equal epochs wins; its weights are those after three epochs."""
    best_at_3, rising = iter([0.1, 0.2, 0.9, 0.9, 0.3]), iter([1, 2, 3])
    task = task_of()
    (result,) = train_probes([ProbeJob(task, RECIPE, 0, metric=lambda scores, labels: next(best_at_3))])
    (third,) = train_probes([ProbeJob(task, replace(RECIPE, epochs=3), 0, metric=lambda scores, labels: next(rising))])
    assert result.chosen == {"epoch": 3} and result.validation_metric == 0.9
    np.testing.assert_allclose(result.test_scores, third.test_scores, rtol=1e-5)


def test_dropout_keeps_the_right_share():
    bits = Draws(0).dropout_bits(400_001)
    assert bits.dtype == np.int16 and len(bits) == 400_001
    for dropout in (0.25, 0.5, 0.75, 0.8, 0.875):
        assert (bits >= dropout_threshold(dropout)).mean() == pytest.approx(1 - dropout, abs=0.003)
    assert dropout_threshold(0.0) == -(2**15)


def test_probes_learn():
    """More than the most frequent class, on a task that a linear probe solves."""
    task = task_of(sizes=(200, 60, 100), seed=9)
    (mlp,) = train_probes([ProbeJob(task, replace(RECIPE, epochs=20, hidden_size=32))])
    for result in (mlp, linear_probe(task), knn_probe(task)):
        assert default_metric(SINGLE)(result.test_scores, task.labels("test")) > 0.7
        np.testing.assert_allclose(result.test_scores.sum(1), 1, rtol=1e-5)


def test_metrics_equal_loops_written_out():
    random = np.random.default_rng(0)
    scores, labels = random.random((23, 4)), random.random((23, 4)) < 0.3
    labels[:, 2] = False
    expected = np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in (0, 1, 3)])
    assert default_metric(MULTI)(scores, labels) == pytest.approx(expected)
    assert default_metric(MULTI)(scores, np.zeros_like(labels)) == 0
    values, truth = random.normal(size=9), random.normal(size=9)
    assert default_metric(VALUE)(values, truth) == pytest.approx(
        -sum((a - b) ** 2 for a, b in zip(values, truth, strict=True)) / 9
    )


@pytest.mark.parametrize("problem", [SINGLE, MULTI, VALUE])
def test_the_linear_probe_is_scikit_learns(problem):
    task = task_of(problem)
    training = task.inputs("train").astype(np.float64)
    prepare = lambda split: (task.inputs(split) - training.mean(0)) / training.std(0)  # noqa: E731

    def fitted(strength):
        labels = task.labels("train")
        if problem == VALUE:
            return Ridge(alpha=1 / strength).fit(prepare("train"), labels).predict
        if problem == SINGLE:
            return LogisticRegression(C=strength).fit(prepare("train"), labels).predict_proba
        each = [LogisticRegression(C=strength).fit(prepare("train"), column) for column in labels.T]
        return lambda inputs: np.stack([model.predict_proba(inputs)[:, 1] for model in each], 1)

    result = linear_probe(task, strengths=(10.0, 0.01, 1.0))
    metric, truth = default_metric(problem), task.labels("validation")
    figures = {c: metric(fitted(c)(prepare("validation")), truth) for c in (0.01, 1.0, 10.0)}
    best = max(figures, key=figures.get)
    assert result.chosen == {"C": best} and result.validation_metric == pytest.approx(figures[best], rel=1e-3)
    np.testing.assert_allclose(result.test_scores, fitted(best)(prepare("test")), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("problem", [SINGLE, MULTI, VALUE])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_knn_probe_is_scikit_learns(problem, distance):
    task = task_of(problem)
    kind = KNeighborsClassifier if problem == SINGLE else KNeighborsRegressor  # the mean of labels is their share

    def scores(k, split):
        model = kind(k, metric=distance).fit(task.inputs("train"), task.labels("train").astype(float))
        return (model.predict_proba if problem == SINGLE else model.predict)(task.inputs(split))

    result = knn_probe(task, neighbors=(7, 1, 3, 36, 38), distance=distance)
    metric, truth = default_metric(problem), task.labels("validation")
    figures = {k: metric(scores(k, "validation"), truth) for k in (1, 3, 7, 36)}
    best = max(figures, key=figures.get)
    assert result.chosen == {"k": best} and result.validation_metric == pytest.approx(figures[best])
    np.testing.assert_allclose(result.test_scores, scores(best, "test"), rtol=1e-6, atol=1e-9)


def test_classes_without_training_scenes_get_scores_too():
    """LVU's director has ten outputs, and two of them never occur."""
    task = task_of()
    named = changed(task, classes=("", "a", "b", "c", ""), labels=task.labeled.labels + 1)
    for result in (train_probes([ProbeJob(named, RECIPE)])[0], linear_probe(named), knn_probe(named)):
        assert result.test_scores.shape == (13, 5)
    tags = task_of(MULTI)
    labels = tags.labeled.labels.copy()
    labels[tags.labeled.of_split("train"), 1] = False
    assert (linear_probe(changed(tags, labels=labels)).test_scores[:, 1] == 0).all()


def test_tasks_that_no_probe_can_learn_are_refused():
    task, tags = task_of(), task_of(MULTI)
    for each in (task, tags):
        with pytest.raises(UserError, match="2 classes"):
            changed(each, classes=("a", "b"))
    with pytest.raises(ProbeError, match="all 37 training scenes have the same label, b"):
        changed(task, labels=np.ones(61, int))
    with pytest.raises(ProbeError, match="all 37 training scenes have the same label, none"):
        changed(tags, labels=np.zeros((61, 3), bool))
    with pytest.raises(ProbeError, match="no scene is in split test"):
        kept = task.labeled.only([scene.scene_id for scene in task.labeled.scenes if scene.split != "test"])
        ProbeTask(kept, task.embeddings_ED[: len(kept)])
    broken = task.embeddings_ED.copy()
    broken[7, 2], broken[9, 0] = np.nan, np.inf
    with pytest.raises(ProbeError, match="2 scenes have an embedding with NaN or infinite values, s7 first"):
        changed(task, embeddings_ED=broken)
    with pytest.raises(ProbeError, match="61 labeled scenes, but embeddings of 60"):
        changed(task, embeddings_ED=task.embeddings_ED[1:])
    with pytest.raises(ProbeError, match="rows from 1 to 61, but 61 embeddings"):
        ProbeTask(task.labeled, task.embeddings_ED, np.arange(1, 62)[:, None])
    with pytest.raises(ProbeError, match="expected"):
        changed(task, embeddings_ED=task.embeddings_ED[:, 0])
    with pytest.raises(ProbeError, match="there are 37 training scenes"):
        knn_probe(task, neighbors=(38,))
    with pytest.raises(ProbeError, match="no value of C"):
        linear_probe(task, strengths=())


@pytest.mark.parametrize("beside", [1, 12])
def test_divergence_names_the_probe(beside):
    task = task_of(VALUE)
    jobs = [ProbeJob(task, replace(RECIPE, hidden_size=8 + n), n) for n in range(beside)]
    jobs.append(ProbeJob(task, replace(RECIPE, learning_rate=1e6), 7))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ProbeError, match=r"seed 7.*learning_rate=1000000\.0 is too high"):
            train_probes(jobs)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("problem", [SINGLE, MULTI])
def test_divergence_after_a_good_epoch_is_told_and_the_best_epoch_kept(problem, monkeypatch):
    """Weights of the first of two members become infinite in the third of five epochs; the other is as it was alone."""
    task = task_of(problem)
    jobs = [ProbeJob(task, RECIPE, seed) for seed in (1, 2)]
    short, alone = train_probes([replace(jobs[0], recipe=replace(RECIPE, epochs=2)), jobs[1]])
    take_step, steps = mlp_module._Group._step, itertools.count(1)

    def step(group, batches):
        take_step(group, batches)
        if next(steps) == 2 * 5 + 1:
            group.layers[2][0][0] = torch.inf

    monkeypatch.setattr(mlp_module._Group, "_step", step)
    diverged, other = train_probes(jobs, probes_at_once=2)
    assert diverged.chosen == {**short.chosen, "diverged_after": 3} and other.chosen == alone.chosen
    assert diverged.validation_metric == short.validation_metric
    np.testing.assert_allclose(diverged.test_scores, short.test_scores, rtol=1e-5)
    np.testing.assert_allclose(other.test_scores, alone.test_scores, rtol=1e-5)
    assert all(np.isfinite(part).all() for part in (*diverged.mlp.weights, *diverged.mlp.biases))


def own_task(problem: str, classes: int = 3) -> ProbeTask:
    """Embeddings whose numbers have means and scales of their own, and labels or values 50 ± 20 that are linear."""
    random = np.random.default_rng(0)
    task = task_of(problem, (240, 80, 160), width=40)
    inputs = random.normal(size=(480, 40))
    scores = inputs @ random.normal(size=(40, classes)) / np.sqrt(40) + 0.3 * random.normal(size=(480, classes))
    inputs = (inputs * np.exp(random.normal(size=40)) + 3 * random.normal(size=40)).astype(np.float32)
    if problem == VALUE:
        return changed(task, embeddings_ED=inputs, labels=50 + 20 * scores[:, 0])
    names = tuple(f"tag{n}" for n in range(classes))
    labels = scores.argmax(1) if problem == SINGLE else scores > np.quantile(scores, 0.85, axis=0)
    return changed(task, embeddings_ED=inputs, labels=labels, classes=names)


@pytest.mark.parametrize(
    ("name", "problem", "classes"),
    [("own", SINGLE, 3), ("own_values", VALUE, 1), ("own_tags", MULTI, 3), ("own_tags", MULTI, 40)],
)
def test_our_own_recipes_learn_from_embeddings_of_any_scale(name, problem, classes):
    """Most of the way from chance to a linear probe, which few scenes and a linear truth suit better."""
    task = own_task(problem, classes)
    (result,) = train_probes([ProbeJob(task, replace(read_recipe(CONFIGS / f"{name}.yaml"), hidden_size=128))])
    figure, labels = default_metric(problem), task.labels("test")
    chance = {SINGLE: 1 / 3, MULTI: 0.15, VALUE: -labels.var()}[problem]
    reached, linear = (figure(each.test_scores, labels) - chance for each in (result, linear_probe(task)))
    assert linear > 0 and reached > 0.65 * linear and "diverged_after" not in result.chosen


def test_recipes_are_the_papers():
    recipes = {path.stem: read_recipe(path) for path in CONFIGS.glob("*.yaml")}
    lvu = ["scene", "director", "relationship", "way_speaking", "writer", "year", "genre", "view_count", "like_ratio"]
    found = [recipes[f"lvu_{name}"] for name in lvu]
    assert [recipe.learning_rate for recipe in found] == [0.1, 0.1, 0.5, 0.01, 0.1, 0.1, 0.01, 0.01, 0.1]
    assert [recipe.batch_size for recipe in found] == [64, 16, 16, 32, 16, 64, 128, 16, 16]
    assert [recipe.epochs for recipe in found] == [400] * 7 + [500] * 2
    assert [recipe.dropout for recipe in found] == [0.25, 0.875, 0.25, 0.75, 0.75, 0.75, 0.25, 0.75, 0.5]
    assert recipes["movienet_place"] == ProbeRecipe(512, 5.0, 512, 200, 0.25)
    assert recipes["movienet_boundaries"] == ProbeRecipe(512, 0.03, 4096, 800, 0.8)
    assert {recipe.hidden_size for recipe in recipes.values()} == {512} and len(recipes) == 15
    assert {name for name, recipe in recipes.items() if recipe.standardize} == {"own", "own_tags", "own_values"}


def test_bad_recipes_are_refused(tmp_path):
    for fields in ({"epochs": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"batch_size": -1}, {"validate_every": 0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            replace(RECIPE, **fields)
    (tmp_path / "recipe.yaml").write_text("momentum: 0.9\n")
    with pytest.raises(ValueError, match="no such field: momentum"):
        read_recipe(tmp_path / "recipe.yaml")


@pytest.fixture
def encoder(tiny_folder) -> M2SSceneModel:
    return M2SSceneModel.from_pretrained(tiny_folder).eval()


@pytest.fixture
def image_processor(tiny_folder):
    return AutoImageProcessor.from_pretrained(tiny_folder, backend="pil")


@pytest.mark.parametrize("problem", [SINGLE, MULTI, VALUE])
def test_an_exported_probe_classifies_a_video(encoder, image_processor, tmp_path, problem):
    task = task_of(problem, width=32)
    (result,) = train_probes([ProbeJob(task, replace(RECIPE, standardize=True, dropout=0.25))])
    names = ("mill", "", "shore") if problem != VALUE else ()
    export_classifier(encoder, image_processor, result.mlp, names, problem, tmp_path / "model")

    loaded = M2SSceneForClassification.from_pretrained(tmp_path / "model").eval()
    processor = M2SSceneProcessor.from_pretrained(tmp_path / "model")
    config = loaded.config
    labels = {0: "mill", 1: "LABEL_1", 2: "shore"} if problem != VALUE else {0: "LABEL_0"}
    assert config.id2label == labels and config.label2id == {name: number for number, name in labels.items()}
    assert (config.problem_type, config.classifier_hidden_size, config.classifier_dropout) == (problem, 9, 0.25)

    make_video(tmp_path / "film.mp4", [20, 31, 25])
    shots = detect_shots(tmp_path / "film.mp4").shots
    frames = [[open_image(keyframe) for keyframe in shot.keyframes] for shot in shots]
    with torch.no_grad():
        inputs = processor([frames])
        logits = loaded(**inputs).logits
        embedding = encoder(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(logits.numpy(), result.mlp.logits(embedding), rtol=1e-4, atol=1e-5)
    (scene,) = pipeline("scene-embedding", model=str(tmp_path / "model"))(
        str(tmp_path / "film.mp4"), shots_per_scene=len(shots), scene_vector="joint"
    )
    np.testing.assert_allclose(scene["embedding"], embedding[0], rtol=1e-4, atol=1e-5)


def test_exports_that_would_not_fit_are_refused(encoder, image_processor, tmp_path):
    def mlp(width: int = 32, classes: int = 2) -> MLP:
        sizes = [(width, 4), (4, 4), (4, classes)]
        return MLP(tuple(map(np.zeros, sizes)), tuple(np.zeros(size[1]) for size in sizes), 0.0)

    def export(probe: MLP, names=("a", "b"), model=encoder) -> None:
        export_classifier(model, image_processor, probe, names, SINGLE, tmp_path)

    with pytest.raises(ProbeError, match="the probe reads 16 numbers, the encoder's pooler_output has 32"):
        export(mlp(width=16))
    with pytest.raises(ProbeError, match="3 class names, but the probe has 2 classes"):
        export(mlp(), ("a", "b", "c"))
    with pytest.raises(ProbeError, match="two classes are named 'a'"):
        export(mlp(), ("a", "a"))
    with pytest.raises(ProbeError, match="only a single scene encoder"):
        export(mlp(), model=M2SSceneForClassification(encoder.config))
    assert not list(tmp_path.iterdir())
