"""Contrastive training: steps against loops written out, the real command on one process and two, killed anywhere.

Whatever happened to a run, its weights' bytes and the numbers of its log are those of one run that nothing disturbed.
"""

import copy
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from forked_runs import ROOT, ForkedRuns
from moco_world import write_labels, write_pairs, write_shots
from PIL import Image
from range_server import serve
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel

from data_scripts.readers.scene_frames import SceneFrames
from modeling_m2s import M2SSceneModel, M2SSceneProcessor
from modeling_m2s.frames_m2s import normalize
from modeling_m2s.storage_m2s import FilmDataset
from train.arguments import RunArguments
from train.moco.loop import Training, learning_rate_scale
from train.moco.model import ContrastHead, SceneContrast, step_operations
from train.moco.pairs import START, BatchPlan, PairBatches, ScenePairs
from train.moco.recipe import MoCoData, MoCoRecipe
from train.runs import RunFolder

BATCH, PATCHES = 8, 16
RECIPE = {
    "shots_per_scene": 3,
    "batch_size": BATCH,
    "epochs": 30,
    "max_steps": 12,
    "learning_rate": 2e-4,
    "whiten": True,
    "queue_size": 20,
    "momentum": 0.9,
    "temperature": 0.2,
    "mask": "similar",
    "patch_dropout": 0.3,
    "log_steps": 1,
    "checkpoint_steps": 3,
    "num_workers": 0,
}
# The recipe above sets the momentum, which is of the other objective.
IN_BATCH = {"objective": "in_batch", "momentum": 0.999}
IN_BATCH_FLAGS = [f"--{name}={value}" for name, value in IN_BATCH.items()]
# Values of the log that say how fast a run was.
SPEED = ("pairs_per_second", "share_of_peak", "data_wait", "memory_gb")
STEP = "train.moco.loop:Training.step"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moco")
    write_shots(folder / "shots")
    write_pairs(folder / "pairs")
    write_labels(folder / "labels.csv", range(6, 12))
    return folder


@pytest.fixture(scope="module")
def frames(catalog, tiny_folder) -> SceneFrames:
    return SceneFrames(catalog / "shots", AutoImageProcessor.from_pretrained(tiny_folder), cache=catalog / "cache")


def training(catalog: Path, frames: SceneFrames, tiny_folder: Path, output: Path, **fields) -> Training:
    recipe = MoCoRecipe(**{**{key: value for key, value in RECIPE.items() if hasattr(MoCoRecipe, key)}, **fields})
    torch.manual_seed(recipe.seed)
    pairs = ScenePairs.read(catalog / "pairs", frames)
    contrast = SceneContrast(M2SSceneModel.from_pretrained(tiny_folder), frames.image_processor, recipe)
    plan = BatchPlan(pairs.num_shots_P, recipe.batch_size, recipe.seed)
    batches = PairBatches(pairs, frames, plan, recipe, (0, 1), PATCHES)
    data = MoCoData(pairs=catalog / "pairs", shots=str(catalog / "shots"), num_workers=0)
    run = RunFolder(output, {}, Accelerator(cpu=True))
    return Training(contrast, batches, recipe, data, run, RunArguments(output=output, log_steps=1, checkpoint_steps=99))


# One step.


def written_out_loss(encoder, head, keys, batch, recipe, queue, films, similar):
    """The loss of a batch, pair by pair, and the keys that it makes."""

    def embed(network, side):
        scenes = []
        for place in range(BATCH):
            pixels = normalize(batch.pixels_2bFCYX[side, place][None], network[2])
            kept = batch.kept_2bP[side, place][None]
            scenes.append(network[0](pixels, kept_patches=kept).pooler_output[0])
        points = (torch.stack(scenes) - network[1].mean_D) @ network[1].axes_DD
        if recipe.batch_norm:
            points = (points - points.mean(0)) / (points.var(0, correction=0) + 1e-5).sqrt()
        return F.normalize(network[1].projection(points), dim=-1)

    def is_masked(a, b):
        return a == b or (a, b) in similar or (b, a) in similar

    first = embed((encoder, head, keys[2]), 0)
    losses = []
    if recipe.objective == "momentum":
        with torch.no_grad():
            key = embed(keys, 1)
        for i in range(BATCH):
            others = [queue[j] for j in range(len(queue)) if not is_masked(int(batch.films_2B[0, i]), films[j])]
            scores = torch.stack([first[i] @ key[i], *(first[i] @ other for other in others)]) / recipe.temperature
            losses.append(scores.logsumexp(0) - scores[0])
        return torch.stack(losses).mean(), key
    second = embed((encoder, head, keys[2]), 1)
    for a, b, own, other in ((first, second, 0, 1), (second, first, 1, 0)):
        for i in range(BATCH):
            scores = [
                a[i] @ b[j] / recipe.temperature
                for j in range(BATCH)
                if i == j or not is_masked(int(batch.films_2B[own, i]), int(batch.films_2B[other, j]))
            ]
            losses.append(torch.stack(scores).logsumexp(0) - a[i] @ b[i] / recipe.temperature)
    return torch.stack(losses).mean(), None


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "momentum", "whiten": False},
        {"objective": "momentum"},
        {**IN_BATCH, "whiten": False, "head_learning_rate": 0.02, "weight_decay": 0.1},
    ],
)
def test_steps_are_those_of_a_loop_written_out(catalog, frames, tiny_folder, tmp_path, fields):
    ours = training(catalog, frames, tiny_folder, tmp_path, **fields)
    recipe, batches = ours.recipe, ours.batches
    ours.start()
    encoder, head = copy.deepcopy(ours.contrast.encoder), copy.deepcopy(ours.contrast.head)
    keys = (copy.deepcopy(encoder), copy.deepcopy(head), frames.image_processor)
    queue, films = [], []
    if recipe.objective == "momentum":  # the first keys: both sides of the batches of another order, side after side
        start = copy.copy(batches)
        start.stream, start.plan = START, copy.copy(batches.plan)
        for step in range(64 if recipe.whiten else 2):  # 1,024 scenes to whiten by, or enough for the queue
            batch = start[step]
            for side in (0, 1):
                pixels = normalize(batch.pixels_2bFCYX[side], frames.image_processor)
                with torch.no_grad():
                    queue += list(head(encoder(pixels, kept_patches=batch.kept_2bP[side]).pooler_output))
                films += batch.films_2B[side].tolist()
        queue, films = queue[-recipe.queue_size :], films[-recipe.queue_size :]
        order = ours.queue.by_age().flip(0)
        torch.testing.assert_close(ours.queue.keys_KC[order], torch.stack(queue), atol=2e-5, rtol=0)
    similar = {tuple(pair) for pair in batches.pairs.films_P2.tolist()}
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    rate = recipe.head_learning_rate or recipe.learning_rate
    groups = [{"params": trained, "rate": recipe.learning_rate}, {"params": head.parameters(), "rate": rate}]
    optimizer = torch.optim.Adam(groups, lr=0.0, weight_decay=recipe.weight_decay)
    for step in range(3):
        contrast, _ = ours.step(step, batches[step])
        loss, key = written_out_loss(encoder, head, keys, batches[step], recipe, queue, films, similar)
        assert float(contrast.loss) == pytest.approx(float(loss.detach()), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (step + 1) / 3  # the warm-up is a quarter of twelve steps
        optimizer.step()
        if recipe.objective == "momentum":
            with torch.no_grad():
                for mine, theirs in ((keys[0], encoder), (keys[1], head)):
                    for slow, fast in zip(mine.parameters(), theirs.parameters(), strict=True):
                        slow.copy_(0.9 * slow + 0.1 * fast)
            queue, films = [*queue[BATCH:], *key], [*films[BATCH:], *batches[step].films_2B[1].tolist()]
    differing = total = 0
    for mine, theirs in ((ours.contrast.encoder, encoder), (ours.contrast.head, head)):
        for name, value in mine.named_parameters():
            # Adam divides by the gradient's size, so a gradient of rounding errors still moves a whole rate. That of
            # k_proj.bias is nothing else; on some processors a few other values have such gradients, too.
            if "k_proj.bias" not in name:
                differing += int((~torch.isclose(value, theirs.get_parameter(name), atol=1e-4, rtol=1e-3)).sum())
                total += value.numel()
    assert differing <= total / 2000, (differing, total)


def test_batch_norm_before_the_head_is_that_of_the_joint_batch():
    head = ContrastHead(6, 4, batch_norm=True)
    features = 3 + torch.randn(9, 6)
    normal = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(head(features), F.normalize(head.projection(normal), dim=-1))


def test_whitening_before_the_head_leaves_no_covariance():
    head, features = ContrastHead(6, 4, batch_norm=False), torch.randn(500, 6) * torch.arange(2, 8) + 5
    head.whiten(features)
    white = (features - head.mean_D) @ head.axes_DD
    torch.testing.assert_close(torch.cov(white.T), torch.eye(6), atol=0.15, rtol=0)
    few = torch.randn(4, 6)
    head.whiten(few)  # three directions are all that four points have
    assert (head.axes_DD.abs().sum(0) > 0).tolist() == [True] * 3 + [False] * 3 and head(few).isfinite().all()


@pytest.mark.parametrize("accumulation", [2, 4])
def test_momentum_contrast_in_parts_is_that_of_the_whole_batch(catalog, frames, tiny_folder, tmp_path, accumulation):
    runs = []
    for number, parts in enumerate((1, accumulation)):
        each = training(
            catalog, frames, tiny_folder, tmp_path / str(number), accumulation=parts, queue_size=32, whiten=False
        )
        each.start()
        contrast, gradient_norm = each.step(0, each.batches[0])
        runs.append((contrast.loss.item(), gradient_norm.item(), each.queue))
    assert runs[0][:2] == pytest.approx(runs[1][:2], rel=1e-4)
    new = [queue.keys_KC[queue.by_age()[:BATCH]] for *_, queue in runs]
    torch.testing.assert_close(new[0], new[1], atol=1e-5, rtol=0)


def test_a_symmetric_loss_is_the_mean_of_both_directions(catalog, frames, tiny_folder, tmp_path):
    each = training(catalog, frames, tiny_folder, tmp_path, symmetric=True)
    each.start()
    batch = each.batches[0]
    both, (keys, films) = each.compare(batch)
    assert len(keys) == 2 * BATCH and films.tolist() == [*batch.films_2B[1], *batch.films_2B[0]]
    each.recipe.symmetric = False
    alone = [each.compare(one)[0].loss.item() for one in (batch, batch.swapped())]
    assert both.loss.item() == pytest.approx(np.mean(alone), rel=1e-5)


def test_frozen_parts_stay_and_the_rest_moves(catalog, frames, tiny_folder, tmp_path):
    each = training(catalog, frames, tiny_folder, tmp_path, frozen_layers=1, **IN_BATCH)
    before = {name: value.clone() for name, value in each.contrast.named_parameters()}
    each.step(0, each.batches[0])
    moved = {name for name, value in each.contrast.named_parameters() if not torch.equal(value, before[name])}
    frozen = re.compile(r"encoder\.(visual_projection|vision_model\.(embeddings|pre_layrnorm|encoder\.layers\.0))")
    assert moved and not any(frozen.match(name) for name in moved)
    assert {
        name for name in before if not frozen.match(name) and "layers.1" in name and "k_proj.bias" not in name
    } <= moved
    other = training(catalog, frames, tiny_folder, tmp_path / "patches", freeze_patch_embedding=True, **IN_BATCH)
    before = {name: value.clone() for name, value in other.contrast.named_parameters()}
    other.step(0, other.batches[0])
    still = {name for name, value in other.contrast.named_parameters() if torch.equal(value, before[name])}
    assert still - {name for name in still if "k_proj.bias" in name} == {
        "encoder.vision_model.embeddings.patch_embedding.weight",
        "encoder.visual_projection.weight",
    }
    with pytest.raises(ValueError, match="frozen_layers is 2, but the encoder has 2 layers"):
        training(catalog, frames, tiny_folder, tmp_path / "all", frozen_layers=2)


def test_steps_count_as_training_and_pauses_do_not(catalog, frames, tiny_folder, tmp_path, monkeypatch):
    """By a clock on which a step takes a second, a measurement or a checkpoint a hundred."""
    each = training(catalog, frames, tiny_folder, tmp_path, max_steps=7, measure_steps=2, whiten=False, queue_size=8)
    each.arguments = RunArguments(output=tmp_path, log_steps=4, checkpoint_steps=3)
    now, saved = [0.0], {}
    monkeypatch.setattr("train.moco.loop.time", SimpleNamespace(perf_counter=lambda: now[0]))
    step, save = each.step, each.run_folder.save

    def one_second(number, batch):
        now[0] += 1
        return step(number, batch)

    def measure(encoder, bf16):
        now[0] += 100
        return {"precision_at_1": 0.5}

    def checkpoint(step, **state):
        save(step, **state)
        now[0] += 100
        saved[step] = state["seconds"]

    each.step, each.labeled, each.run_folder.save = one_second, SimpleNamespace(measure=measure), checkpoint
    assert each.run()["seconds"] == 7 and saved == {3: 3, 6: 6, 7: 7}
    speeds = [line["pairs_per_second"] for line in each.run_folder.read_log() if "loss" in line]
    assert speeds == [BATCH, BATCH]


def test_learning_rate_warms_up_and_falls():
    recipe = MoCoRecipe(warmup_share=0.25)
    scales = [learning_rate_scale(step, 20, recipe) for step in range(20)]
    assert scales[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1]) and scales[19] == pytest.approx(0.0109, abs=1e-4)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    for step in range(5, 20):
        assert scales[step] == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    recipe.schedule = "constant"
    assert learning_rate_scale(17, 20, recipe) == 1


def test_operations_are_those_that_pytorch_counts(tiny_folder):
    """Of the paper's encoder on nine shots 1.67 TFLOP a pair; by PyTorch's own counter, a small one."""
    from torch.utils.flop_counter import FlopCounterMode

    encoder = M2SSceneModel.from_pretrained(tiny_folder, attn_implementation="eager")
    encoder.visual_projection.requires_grad_(False)
    frames = torch.randn(1, 5, 3, 32, 32)
    recipe = MoCoRecipe(objective="in_batch", shots_per_scene=5)
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):
            encoder(frames).pooler_output.sum().backward()
    positions = 0.1  # their interpolation, which the formula leaves out
    assert counter.get_total_flops() == pytest.approx(step_operations(encoder, recipe, 5), rel=positions)
    paper = M2SSceneModel._from_config(M2SSceneModel.config_class())
    assert step_operations(paper, MoCoRecipe(), 9) == pytest.approx(1.67e12, rel=0.01)


# Whole runs.


class Bench:
    """Runs of the real command on one catalog."""

    def __init__(self, folder: Path, model: Path):
        self.folder = folder
        (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "model": str(model)}))
        self.forked = ForkedRuns.start(
            "train.train_moco", "train.moco.training", folder, HF_DATASETS_CACHE=str(folder / "cache")
        )

    def argv(self, output: str, *flags: object) -> list[str]:
        places = {"pairs": "pairs", "shots": "shots", "output": output}
        named = [word for name, place in places.items() for word in (f"--{name}", self.folder / place)]
        return [str(word) for word in (self.folder / "recipe.yaml", *named, *flags)]

    def run(self, output: str, *flags: object, **how):
        return self.forked.run(self.argv(output, *flags), **how)

    def finished(self, output: str, *flags: object, **how) -> str:
        """What a run that must succeed printed."""
        status, out, err = self.run(output, *flags, **how)
        assert status == 0, err
        return out

    def refused(self, output: str, *flags: object, **how) -> str:
        """The message of a run that must end with exit status 1 and one line."""
        status, out, err = self.run(output, *flags, **how)
        lines = [line for line in err.splitlines() if line.startswith("train.train_moco: error: ")]
        assert (status, len(lines), "next:" in out) == (1, 1, False) and "Traceback" not in err, err
        return lines[0].removeprefix("train.train_moco: error: ")

    def log(self, output: str) -> list[dict]:
        lines = (self.folder / output / "log.jsonl").read_text().splitlines()
        return [{name: value for name, value in json.loads(line).items() if name not in SPEED} for line in lines]

    def weights(self, output: str) -> bytes:
        return (self.folder / output / "model/model.safetensors").read_bytes()

    def assert_like(self, output: str, other: str) -> None:
        assert self.log(output) == self.log(other)
        assert self.weights(output) == self.weights(other)

    def results(self, output: str) -> dict:
        return json.loads((self.folder / output / "results.json").read_text())


@pytest.fixture(scope="module")
def bench(catalog, tiny_folder) -> Iterator[Bench]:
    bench = Bench(catalog, tiny_folder)
    yield bench
    bench.forked.stop()


@pytest.fixture(scope="module")
def whole(bench) -> str:
    return bench.finished("whole")


def test_a_run_leaves_a_scene_encoder_and_what_was_done(bench, whole, tiny_folder):
    assert "next: m2s embed" in whole and "12 steps on" in whole
    output = bench.folder / "whole"
    model = AutoModel.from_pretrained(output / "model")
    assert model.config.trained_on_scenes
    assert type(model) is M2SSceneModel
    start = load_file(tiny_folder / "model.safetensors")
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert "vision_model.embeddings.class_embedding" in moved and "visual_projection.weight" not in moved
    processor = M2SSceneProcessor.from_pretrained(output / "model")
    picture = Image.new("RGB", (50, 40), "red")
    assert model(**processor([[picture, picture]])).pooler_output.shape == (1, 32)
    results = bench.results("whole")
    assert results["steps"] == 12 and results["recipe"]["queue_size"] == 20 and results["retrieval"] is None
    assert "command" in results and json.loads((output / "model/training.json").read_text()) == {
        name: value for name, value in results.items() if name != "command"
    }
    assert "train.train_moco" in (output / "model/README.md").read_text()
    assert Image.open(output / "curves.png").size[0] > 500
    names = set(bench.log("whole")[-1])
    assert {"loss", "top_1", "top_5", "spread", "gradient_norm", "masked_share", "similarity_age_4"} <= names
    recipe = json.loads((output / "recipe.json").read_text())
    assert recipe["temperature"] == 0.2 and "log_steps" not in recipe and str(bench.folder) not in str(recipe["data"])


def test_a_finished_run_is_finished(bench, whole):
    before = bench.weights("whole")
    bench.finished("whole")
    assert bench.weights("whole") == before


def test_a_run_whose_shots_are_streamed_from_a_store_ends_the_same(bench, whole):
    with serve(bench.folder) as address:
        bench.finished("streamed", "--shots", f"{address}/shots", "--num-workers", "1")
    bench.assert_like("streamed", "whole")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("accumulated", ["--accumulation", "2", "--augment"]),
        pytest.param("momentum", [], marks=pytest.mark.slow),
        pytest.param("in_batch", [*IN_BATCH_FLAGS, "--batch-norm"], marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_ten_steps_ends_like_one_that_was_not(bench, name, flags):
    """The last two within one later epoch; of an accumulated step, between its parts as well."""
    flags = [*flags, "--max-steps", "40"]
    bench.finished(f"{name}-whole", *flags)
    chance = random.Random(name)
    at, calls = ("train.moco.loop:Training.compare", 2) if name == "accumulated" else (STEP, 1)
    for death in [chance.randint(1, 4 * calls) for _ in range(8)] + [2 * calls, 2 * calls]:
        status, _, _ = bench.run(f"{name}-killed", *flags, die_at=(at, death))
        assert status == -signal.SIGKILL
    bench.finished(f"{name}-killed", *flags)
    bench.assert_like(f"{name}-killed", f"{name}-whole")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("two-momentum", ["--accumulation", "2", "--whiten"]),
        ("two-in-batch", [*IN_BATCH_FLAGS, "--batch-norm", "--augment", "--frozen-layers", "1"]),
    ],
)
def test_two_processes_compute_the_step_of_one_with_the_joint_batch(bench, tiny_folder, name, flags):
    flags = [*flags, "--max-steps", "4", "--weight-decay", "0.01"]
    bench.finished(f"{name}-1", *flags)
    bench.finished(f"{name}-2", *flags, ranks=2)
    for one, two in zip(bench.log(f"{name}-1"), bench.log(f"{name}-2"), strict=True):
        assert set(one) == set(two)
        for key in ("loss", "gradient_norm", "spread", "masked_share", "similarity_age_1"):
            assert one.get(key, 0) == pytest.approx(two.get(key, 0), rel=1e-2, abs=2e-4), key
    one, two = (load_file(bench.folder / f"{name}-{ranks}/model/model.safetensors") for ranks in (1, 2))
    start = load_file(tiny_folder / "model.safetensors")
    moved = sum(float((value - start[key]).square().sum()) for key, value in one.items()) ** 0.5
    apart = (
        sum(float((value - two[key]).square().sum()) for key, value in one.items() if "k_proj.bias" not in key) ** 0.5
    )
    assert apart < 0.1 * moved


def test_a_run_goes_on_with_another_number_of_processes(bench, whole):
    status, _, _ = bench.run("changed", die_at=(STEP, 8))
    assert status == -signal.SIGKILL
    printed = bench.finished("changed", ranks=2)
    assert re.search(r"goes on with 2 processes instead of 1", printed)
    for one, two in zip(bench.log("whole"), bench.log("changed"), strict=True):
        assert one["step"] == two["step"] and one["loss"] == pytest.approx(two["loss"], rel=1e-2)


def test_training_on_labeled_scenes_keeps_the_best_weights_and_leaves_their_films_out(bench):
    flags = ["--labels", bench.folder / "labels.csv", "--measure-steps", "4", "--batch-size", "4"]
    out = bench.finished("labeled", *flags, "--queue-size", "8")
    results = bench.results("labeled")
    measured = {line["step"]: line["precision_at_1"] for line in results["retrieval"]["measured"]}
    assert list(measured) == [4, 8, 12] and "labeled scenes: precision at 1" in out
    assert measured[results["retrieval"]["best_step"]] == max(measured.values())
    assert results["counts"]["scene_pairs_left_out"] > 0 and results["counts"]["films"] <= 4


def test_contrast_learns_what_films_of_a_theme_share(bench):
    flags = [
        "--max-steps",
        "40",
        "--learning-rate",
        "2e-3",
        "--temperature",
        "0.1",
        "--whiten",
        "--batch-norm",
    ]
    bench.finished("learned", *IN_BATCH_FLAGS, *flags)
    losses = [line["loss"] for line in bench.log("learned")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2


def test_another_recipe_in_the_same_folder_is_refused(bench, whole):
    told = bench.refused("whole", "--temperature", "0.3")
    assert "temperature is 0.2 there, 0.3 now" in told
    assert "queue_size is 20 there, 24 now" in bench.refused("whole", "--queue-size", "24")


def test_a_run_of_an_earlier_release_goes_on_and_replaced_keyframes_are_refused(bench, whole, tmp_path):
    """A film of as many shots in a film's place; the earlier release did not record which keyframes it had."""
    shutil.copytree(bench.folder / "whole", bench.folder / "earlier")
    recipe = json.loads((bench.folder / "earlier/recipe.json").read_text())
    del recipe["data"]["shot_shards"]
    (bench.folder / "earlier/recipe.json").write_text(json.dumps(recipe))
    assert "12 steps" in bench.finished("earlier")
    shutil.copytree(bench.folder / "shots", tmp_path / "shots")
    shots = FilmDataset(tmp_path / "shots", "shots")
    film = next(iter(shots.films().values()))
    rows = [row for table in shots.read_film(film) for row in table.to_pylist()]
    shots.write_film(film.movie_id, [{**row, "keyframes": rows[0]["keyframes"]} for row in rows], film.facts)
    shots.finish(list(shots.films()), {})
    assert "data.shot_shards is '" in bench.refused("whole", "--shots", tmp_path / "shots")


def test_a_queue_larger_than_half_of_the_scenes_is_told(bench):
    out = bench.finished("large-queue", "--queue-size", "500", "--max-steps", "1", "--mask", "none")
    assert re.search(r"queue_size 500 is more than half of the \d+ scenes", out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "500"], r"batch_size is 500, but of the \d+ scene pairs"),
        (["--model", "nowhere/no-model"], "nowhere/no-model"),
        (["--objective", "both"], "objective"),
        (["--frozen-layers", "9"], "frozen_layers is 9, but the encoder has 2 layers"),
        (["--frames-per-shot", "2"], "keyframes"),
        (["--learning-rate", "nan"], "learning_rate"),
    ],
)
def test_what_makes_no_run_is_refused(bench, flags, message):
    assert re.search(message, bench.refused("no-run", *flags))


def test_a_loss_that_is_no_number_ends_the_run_with_its_cause(bench):
    told = bench.refused("diverged", "--learning-rate", "1e30", "--max-steps", "8", "--warmup-share", "0")
    assert re.match(r"the loss of step \d+ is nan: training diverged", told)


def test_collapsed_embeddings_end_the_run_with_their_cause(catalog, frames, tiny_folder, tmp_path):
    each = training(catalog, frames, tiny_folder, tmp_path, whiten=True, **IN_BATCH)
    step = each.step

    def collapsing(number, batch):
        with torch.no_grad():
            if number == 2:
                each.contrast.head.projection.weight.zero_()
        return step(number, batch)

    each.step = collapsing
    with pytest.raises(ValueError, match=r"nearly all alike \(spread 0.0\d+\): training collapsed"):
        each.run()


def test_keyframes_that_do_not_decode_are_named_and_counted_up_to_a_threshold(catalog, bench, tmp_path):
    write_shots(tmp_path / "shots", broken={(film, shot): b"no" for film in range(12) for shot in (2, 3)})
    flags = ["--shots", tmp_path / "shots", "--max-steps", "30"]
    told = bench.refused("unreadable", *flags)
    assert re.search(r"\d+ of \d+ frames do not decode, such as tt2\d+ shot [23].*more than max_unreadable=0.01", told)
    out = bench.finished("readable", *flags, "--max-unreadable", "0.9")
    found = bench.results("readable")["frames"]
    assert 0 < found["unreadable"] < found["read"] and f"{found['unreadable']} of {found['read']} frames" in out


def test_missing_and_cut_shards_are_named(bench, tmp_path):
    write_shots(tmp_path / "shots")
    shard = next((tmp_path / "shots/data").glob("*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert shard.name in bench.refused("cut", "--shots", tmp_path / "shots")
    shard.unlink()
    assert "shots" in bench.refused("gone", "--shots", tmp_path / "shots")
    assert "no finished scene_pairs dataset" in bench.refused("nothing", "--pairs", tmp_path / "none")


def test_processes_that_do_not_know_of_each_other_are_refused(bench):
    told = bench.refused("strangers", environment={"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_CPU": "false"})
    assert "WORLD_SIZE=2" in told and "accelerate launch" in told


def launch(bench: Bench, output: str, *flags: object) -> subprocess.Popen:
    """The command as users start it on two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    command = [sys.executable, "-m", *words, "-m", "train.train_moco", *bench.argv(output, *flags)]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **environment, "HF_DATASETS_CACHE": str(bench.folder / "cache")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_accelerate_launch_trains_on_two_processes(bench):
    flags = ["--max-steps", "3"]
    job = launch(bench, "launched", *flags)
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, printed
    bench.finished("forked-two", *flags, ranks=2)
    bench.assert_like("launched", "forked-two")


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_a_message(bench):
    job = launch(bench, "one-killed", "--max-steps", "100000", "--epochs", "100000")
    log = bench.folder / "one-killed/log.jsonl"
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_text().count("\n") > 2):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.2)
    found = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(found[-1]), signal.SIGKILL)
    printed, _ = job.communicate(timeout=60)
    assert job.returncode != 0 and re.search("Signal 9|SIGKILL|exitcode.*-9", printed)
