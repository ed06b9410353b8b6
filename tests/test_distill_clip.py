"""Distillation: measures against loops written out, the real command line on noise, kills at any moment.

Losses and sources have tests of their own. Whatever happened to a run, its student's bytes and its log are those of one
run that nothing disturbed. Runs that are to be killed or refused are forks of one process that has imported everything
(`forked_runs.py`).
"""

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from forked_runs import Ended, ForkedRuns
from hub_server import Hub
from make_videos import make_video
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from modeling_m2s import M2SSceneModel, M2SSceneProcessor
from modeling_m2s.storage_m2s import StorageError, exclusive
from train.distillation.crops import CachedCrops, CropSettings, list_images, plan_chunks
from train.distillation.losses import TeacherSpace, embedding_losses, token_loss
from train.distillation.recipe import DistillationRecipe
from train.distillation.training import (
    Distillation,
    basis_path,
    build_optimizers,
    build_student,
    calibration_crops,
    distillation_losses,
    find_basis,
    group_borders,
    measure,
    mirror_half,
    tensor_digest,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("teacher", "student", "borders"),
    [
        (12, 5, [0, 2, 5, 7, 10, 12]),
        (12, 12, [*range(13)]),
        (3, 2, [0, 2, 3]),
        (12, 1, [0, 12]),
        (7, 3, [0, 2, 5, 7]),
    ],
)
def test_each_layer_of_the_student_stands_for_a_group_of_the_teachers(teacher, student, borders):
    assert group_borders(teacher, student) == borders


def build_tower(
    hidden_size=128, heads=2, layers=3, image_size=64, mlp=96, projection_dim=32, patch_size=16, seed=0
) -> CLIPVisionModelWithProjection:
    """A tower of random weights, biases included."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=hidden_size,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        image_size=image_size,
        intermediate_size=mlp,
        projection_dim=projection_dim,
        patch_size=patch_size,
    )
    tower = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return tower


def test_mirroring_moves_pixels_and_their_tokens_of_half_the_batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 6, 6), dtype=torch.uint8, generator=generator)
    tokens = torch.randn(64, 2, 1 + 9, 5, generator=generator).half()
    embeds = torch.randn(64, 4)
    batch = {"pixels": pixels.clone(), "tokens": tokens.clone(), "embeds": embeds.clone()}
    mirror_half(batch, 11)
    assert torch.equal(batch["embeds"], embeds)
    mirrored = [n for n in range(64) if not torch.equal(batch["pixels"][n], pixels[n])]
    assert 20 < len(mirrored) < 44
    for n in range(64):
        for y in range(6):
            for x in range(6):
                assert torch.equal(batch["pixels"][n, :, y, x], pixels[n, :, y, 5 - x if n in mirrored else x])
        assert torch.equal(batch["tokens"][n, :, 0], tokens[n, :, 0])
        for y in range(3):
            for x in range(3):
                there = 1 + 3 * y + (2 - x if n in mirrored else x)
                assert torch.equal(batch["tokens"][n, :, 1 + 3 * y + x], tokens[n, :, there])
    for share in range(2):
        half = {name: values.chunk(2)[share].clone() for name, values in (("pixels", pixels), ("tokens", tokens))}
        mirror_half(half, 11, share, 2)
        assert all(torch.equal(values, batch[name].chunk(2)[share]) for name, values in half.items())
    again, other = ({"pixels": pixels.clone(), "tokens": tokens.clone()} for _ in range(2))
    mirror_half(again, 11)
    mirror_half(other, 12)
    assert torch.equal(again["pixels"], batch["pixels"]) and not torch.equal(other["pixels"], batch["pixels"])


def build_distillation() -> Distillation:
    student = build_tower(hidden_size=64, heads=1, layers=2, image_size=32)
    return Distillation(student, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])


def test_the_loss_is_the_weighted_sum_of_embeddings_and_the_layers_tokens():
    model, generator = build_distillation(), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    targets = torch.randn(3, 2, 5, 64, generator=generator).half()
    batch = {"pixels": pixels, "embeds": torch.randn(3, 32, generator=generator).half(), "tokens": targets}
    weights = {"cosine": 2.0, "norm": 0.3, "whitened": 1.5, "relation": 0.7, "token": 5.0}
    recipe = DistillationRecipe(**{f"{name}_weight": weight for name, weight in weights.items()})
    space = TeacherSpace.fit(torch.randn(50, 32, generator=generator), 0.1)
    scale = torch.rand(2, 2, 64, generator=generator)
    layers: list[torch.Tensor] = []
    for layer in model.student.vision_model.encoder.layers:
        layer.mlp.register_forward_hook(lambda _, __, out: layers.append(out))
        layer.layer_norm2.register_forward_pre_hook(lambda _, seen: layers.append(seen[0]))
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]))
    with torch.no_grad():
        inputs = (pixels / 255 - mean) / std
        embeds, pooled = model.student(inputs).image_embeds, model.student.vision_model(inputs).pooler_output
        tokens = torch.stack([layers[0] + layers[1], layers[2] + layers[3]], 1)
        found = distillation_losses(model, batch, space, scale, recipe)
        expected = embedding_losses(embeds, batch["embeds"].float(), space, recipe.relation_temperature)
        expected["token"] = token_loss(tokens, targets.float(), scale)
        for each, wanted in zip(model.embed(pixels), (embeds, pooled), strict=True):
            torch.testing.assert_close(each, wanted)
    assert found.keys() == {"loss", *expected}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found["loss"], sum(weights[name] * expected[name] for name in weights), rtol=1e-4, atol=1e-4
    )


def gradients(wrap, share: slice) -> torch.Tensor:
    """The gradient of the loss of some of eight crops, by a student that `wrap` wraps."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "pixels": torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)[share],
        "embeds": torch.randn(8, 32, generator=generator)[share],
        "tokens": torch.randn(8, 2, 5, 64, generator=generator)[share],
    }
    space = TeacherSpace.fit(torch.randn(50, 32, generator=generator), 0.1)
    model = wrap(build_distillation())
    distillation_losses(model, batch, space, torch.ones(2, 2, 64), DistillationRecipe())["loss"].backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def write_gradients(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    share = slice(4 * rank, 4 * rank + 4)
    found = gradients(torch.nn.parallel.DistributedDataParallel, share)
    save_file({"gradients": found}, folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(write_gradients, (tmp_path,), nprocs=2)
    expected = gradients(lambda model: model, slice(8))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")["gradients"]
        assert (found - expected).norm() < 1e-5 * expected.norm()


TINY = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "image_size": 32, "projection_dim": 32}


def test_the_student_is_of_the_size_asked_for():
    config = build_student(DistillationRecipe(**TINY), build_tower()).config
    assert {name: getattr(config, name) for name in TINY} == TINY
    assert (config.num_attention_heads, config.patch_size, config.hidden_act) == (
        1,
        16,
        build_tower().config.hidden_act,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 192}, "hidden_size 192 is more than the teacher's, 128"),
        ({"hidden_size": 192, "compress": False}, "hidden_size 192 is more than the teacher's, 128"),
        ({"hidden_size": 128}, r"student \(width 128, 2 layers.*teacher \(width 128, 3 layers.*set compress to false"),
        ({"num_hidden_layers": 4}, "num_hidden_layers 4 is more than the teacher's, 3"),
        ({"num_hidden_layers": 4, "compress": False}, "num_hidden_layers 4 is more than the teacher's, 3"),
        ({"intermediate_size": 97}, "cannot be cut out of the teacher"),
    ],
)
def test_students_that_are_no_smaller_than_the_teacher_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_student(DistillationRecipe(**{**TINY, **change}), build_tower())


def test_random_weights_may_be_as_wide_as_the_teachers():
    student = build_student(DistillationRecipe(**{**TINY, "hidden_size": 128, "compress": False}), build_tower())
    assert student.config.hidden_size == 128


def test_every_weight_has_one_optimizer_and_matrices_of_layers_have_muon():
    model = build_distillation()
    muon, adam = build_optimizers(model, DistillationRecipe(muon_learning_rate=0.5, learning_rate=0.25))
    assert (type(muon), type(adam)) == (torch.optim.Muon, torch.optim.AdamW)
    assert (muon.param_groups[0]["lr"], adam.param_groups[0]["lr"]) == (0.5, 0.25)
    names = {parameter: name for name, parameter in model.named_parameters()}
    in_muon, in_adam = ([names[p] for group in o.param_groups for p in group["params"]] for o in (muon, adam))
    assert sorted(in_muon + in_adam) == sorted(names.values())
    matrices = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    assert sorted(name.split(".")[-2] for name in in_muon) == sorted(matrices * 2)
    assert {name.rpartition(".")[2] for name in in_muon} == {"weight"}


class Shelf(torch.utils.data.Dataset):
    """Held-out crops whose pixels say which they are."""

    def __init__(self, embeds: torch.Tensor):
        self.embeds = embeds

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixels": torch.full((3, 2, 2), index, dtype=torch.uint8), "embeds": self.embeds[index]}


class Recited(torch.nn.Module):
    """A student that knows its embeddings and its output before the projection by heart."""

    def __init__(self, embeds: torch.Tensor, pooled: torch.Tensor):
        super().__init__()
        self.embeds, self.pooled = embeds, pooled

    def embed(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert not self.training
        which = pixels[:, 0, 0, 0].long()
        return self.embeds[which], self.pooled[which]


def test_measures_are_those_written_out():
    """70 images: more than a batch of measuring."""
    random = np.random.default_rng(0)
    teacher = random.normal(size=(70, 5)) + 1
    student = 2 * teacher + random.normal(size=(70, 5)) / 2
    pooled = teacher[:, :3] - 1 + random.normal(size=(70, 3)) / 4
    model = Recited(torch.tensor(student).float(), torch.tensor(pooled).float())
    found = measure(model, Shelf(torch.tensor(teacher).float()), Accelerator(cpu=True, mixed_precision="bf16"))
    assert model.training

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))

    def nearest_of(side: np.ndarray) -> list[int]:
        return [max((j for j in range(70) if j != i), key=lambda j: cosine(side[i], side[j])) for i in range(70)]

    def common(side: np.ndarray) -> float:
        return float(sum(side.mean(0) ** 2) / np.mean([sum(row**2) for row in side]))

    off = [side - side.mean(0) for side in (student, teacher, pooled)]
    pairs = [[cosine(side[i], side[j]) for i in range(70) for j in range(i)] for side in off[:2]]
    nearest = [np.array(nearest_of(side)) for side in off]
    expected = {
        "cosine": np.mean([cosine(student[i], teacher[i]) for i in range(70)]),
        "length": np.mean([math.dist(student[i], [0] * 5) / math.dist(teacher[i], [0] * 5) for i in range(70)]),
        "correlation": np.corrcoef(pairs)[0, 1],
        "nearest": np.mean(nearest[0] == nearest[1]),
        "pooled_nearest": np.mean(nearest[2] == nearest[1]),
        "common": common(student),
        "pooled_common": common(pooled),
        "teacher_common": common(teacher),
        "mean_cosine": np.mean([cosine(teacher[i], teacher.mean(0)) for i in range(70)]),
        "chance": 1 / 69,
    }
    assert found == pytest.approx(expected, abs=1e-4)
    assert 0.3 < found["nearest"] < 1 and 0.05 < found["pooled_nearest"] < 1


def test_calibration_crops_are_a_seeded_choice():
    crops = [{"pixels": torch.full((3, 2, 2), n), "embeds": torch.full((4,), -n), "tokens": None} for n in range(20)]
    chosen = {}
    for seed, most in [(0, 7), (1, 7), (0, 500)]:
        found = calibration_crops(crops, DistillationRecipe(seed=seed, calibration_crops=most))
        assert found.keys() == {"pixels", "embeds"} and len(found["pixels"]) == min(most, 20)
        assert torch.equal(found["pixels"][:, 0, 0, 0], -found["embeds"][:, 0])
        chosen[seed, most] = found["pixels"][:, 0, 0, 0].tolist()
        torch.rand(1)
    assert sorted(chosen[0, 500]) == [*range(20)] and chosen[0, 500][:7] == chosen[0, 7] != [*range(7)]
    assert set(chosen[0, 7]) != set(chosen[1, 7])


def test_the_basis_is_found_once_and_kept_for_what_it_depends_on(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        make_image(tmp_path / f"images/{number}.png", number)
    cache = tmp_path / "cache"

    def find(width=64, revision="a", borders=(0, 2, 3), seed=0):
        settings = CropSettings(seed=seed, teacher_size=64, student_size=32)
        images = {tmp_path / "images": list_images(tmp_path / "images")}
        chunks, _ = plan_chunks(images, 1, 3, settings)
        path = basis_path(cache, chunks, [revision, list(borders), width])
        return find_basis(path, build_tower(), chunks, list(borders), width, lambda x: x / 255 - 0.5)

    basis, energies = find()
    assert (basis.shape, energies.shape) == ((128, 64), (3, 2))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(64), atol=1e-5, rtol=0)
    with monkeypatch.context() as patched:
        patched.setattr("train.distillation.training.principal_directions", None)
        again = find()
    assert torch.equal(again[0], basis) and torch.equal(again[1], energies)
    for number, other in enumerate([{"width": 32}, {"revision": "b"}, {"borders": [0, 1, 3]}, {"seed": 1}], 2):
        found, _ = find(**other)
        assert len(list(cache.iterdir())) == number
        assert (tensor_digest(found) == tensor_digest(basis)) == ("revision" in other)


# From here on: whole runs.

SIZES = {
    "held_out_every": 6,
    "frame_interval": 0.5,
    "image_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "projection_dim": 32,
}
RECIPE = {
    **SIZES,
    "crops_per_image": 2,
    "epochs": 3,
    "batch_size": 8,
    "muon_learning_rate": 3e-3,
    "learning_rate": 1e-3,
    "mirror": True,
    "log_steps": 1,
}


def make_image(path: Path, seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((90, 60)).save(path)


@dataclass
class Bench:
    """The place of all runs: a teacher, images and a film, a recipe, a process that forks runs, and its Hub."""

    folder: Path
    runs: ForkedRuns
    hub: Hub

    def argv(self, output: str, *flags: object, recipe: str = "recipe.yaml") -> list[str]:
        """Of a recipe, with the teacher and an output; flags win over both."""
        places = ["--teacher", self.folder / "teacher", "--output", self.folder / output]
        return [str(word) for word in (self.folder / recipe, *places, *flags)]

    def run(self, output: str, *flags: object, die_at: tuple[str, int] | None = None, **which) -> Ended:
        """The command, which dies at the n-th call of a function."""
        return self.runs.run(self.argv(output, *flags, **which), die_at)

    def refused(self, output: str, *flags: object, **which) -> str:
        """The message of a run that must end with exit status 1 and this one line."""
        status, out, err = self.run(output, *flags, **which)
        lines = [line for line in err.splitlines() if line.strip() and not re.search(r"\d/\d+ \[", line)]  # no bars
        assert (status, out, len(lines)) == (1, "", 1), err
        assert lines[0].startswith("train.distill_clip: error: ")
        return lines[0].removeprefix("train.distill_clip: error: ")

    def command(self, *argv: str, **environment: str) -> subprocess.CompletedProcess:
        """A real command line from the repository's root."""
        return subprocess.run(
            [sys.executable, *argv],
            cwd=ROOT,
            env={**ENVIRONMENT, "TINY_FOLDER": str(self.folder), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def student(self, output: str) -> bytes:
        return (self.folder / output / "model/model.safetensors").read_bytes()

    def log(self, output: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / output / "log.jsonl").read_text().splitlines()]

    def assert_like(self, output: str, other: str) -> None:
        """Two runs came to the same, in every byte that does not measure time."""
        assert self.student(output) == self.student(other)
        assert (self.folder / output / "log.jsonl").read_bytes() == (self.folder / other / "log.jsonl").read_bytes()
        results = [json.loads((self.folder / name / "results.json").read_text()) for name in (output, other)]
        for result in results:
            del result["training_minutes"], result["command"]
        assert results[0] == results[1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    """24 images of which two do not open, 6 frames of a film."""
    folder = tmp_path_factory.mktemp("distill")
    build_tower(mlp=128).save_pretrained(folder / "teacher")
    size = {"height": 64, "width": 64}
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size).save_pretrained(folder / "teacher")
    (folder / "images").mkdir()
    for number in range(22):
        make_image(folder / f"images/{number:02d}.png", number)
    (folder / "images/00_broken.png").write_bytes((folder / "images/00.png").read_bytes()[:500])  # to train on
    (folder / "images/99_text.jpg").write_text("not an image")  # held out
    make_video(folder / "film.mp4", [36, 36])
    places = {"images": ["$TINY_FOLDER/images"], "videos": ["$TINY_FOLDER/film.mp4"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **places}))
    (folder / "images.yaml").write_text(yaml.safe_dump({**RECIPE, "images": places["images"], "crops_per_image": 1}))
    with Hub() as hub:
        runs = ForkedRuns.start(
            "train.distill_clip",
            "train.distillation.training",
            folder,
            TINY_FOLDER=str(folder),
            **hub.environment(folder / "hub"),
        )
        yield Bench(folder, runs, hub)
        runs.stop()


@pytest.fixture(scope="module")
def finished(bench) -> Path:
    """The folder of a run by the real command line that nothing disturbed; what it printed is beside it."""
    done = bench.command("-m", "train.distill_clip", *bench.argv("run"))
    assert done.returncode == 0, done.stderr
    (bench.folder / "run.out").write_text(done.stdout)
    return bench.folder / "run"


def test_the_command_makes_a_student(finished):
    model, notes = CLIPVisionModelWithProjection.from_pretrained(finished / "model", output_loading_info=True)
    assert not any(notes.values())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    stored = load_file(finished / "model/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    config = model.config
    assert (config.image_size, config.patch_size, config.hidden_size, config.num_attention_heads) == (32, 16, 64, 1)
    assert (config.num_hidden_layers, config.intermediate_size, config.projection_dim) == (2, 64, 32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8))
    processor = AutoImageProcessor.from_pretrained(finished / "model")
    inputs = processor(image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    with torch.no_grad():
        embeds = model(**inputs).image_embeds
        scenes = M2SSceneModel.from_pretrained(finished / "model").eval()
        read = M2SSceneProcessor.from_pretrained(finished / "model")
        torch.testing.assert_close(scenes(**read([[image]])).scene_embeds, embeds, atol=1e-4, rtol=1e-4)


def test_the_student_is_the_one_that_was_trained(finished):
    """Its measures can be taken again from the student and the cached held-out labels."""
    results = json.loads((finished / "results.json").read_text())
    labels = [path for path in (finished / "cache").glob("*.safetensors") if not path.name.startswith("basis-")]
    held_out = max(labels, key=lambda path: b"99_text" in path.read_bytes())
    cached = CachedCrops([held_out])
    assert cached.skipped == ["99_text.jpg"] and len(cached) == 3
    frames = [CachedCrops([path]) for path in labels if "embeds" in load_file(path)]
    (frame,) = (part for part in frames if len(part) == 1)
    rows = [*(cached[n] for n in range(3)), frame[0]]
    model = CLIPVisionModelWithProjection.from_pretrained(finished / "model")
    processor = AutoImageProcessor.from_pretrained(finished / "model")
    pixels = processor([row["pixels"] for row in rows], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        student = model(pixels).image_embeds
    teacher = torch.stack([row["embeds"].float() for row in rows])
    cosine = torch.nn.functional.cosine_similarity(student, teacher).mean().item()
    assert results["held_out"]["cosine"] == pytest.approx(cosine, abs=2e-3)
    assert results["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_results_say_what_was_done(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["sources"] == [{"name": "images", "images": 24}, {"name": "film.mp4", "images": 6}]
    assert results["skipped_images"] == ["00_broken.png", "99_text.jpg"]
    assert results["crops"] == 2 * (20 - 1 + 5) and results["steps"] == 3 * (results["crops"] // 8)
    recipe = json.loads((finished / "recipe.json").read_text())
    assert recipe == {**results["recipe"], "data": results["data"]}
    assert (
        results["command"].startswith("python -m train.distill_clip ") and f"--output {finished}" in results["command"]
    )
    assert {name: results["recipe"][name] for name in RECIPE if name != "log_steps"} == {
        name: value for name, value in RECIPE.items() if name != "log_steps"
    }
    del results["command"]
    assert str(finished.parent) not in json.dumps(results)
    versions = {"movies2scenes", "torch", "transformers", "accelerate"}
    assert set(results["made_with"]) == {"device", "processes", "threads", *versions}
    assert results["held_out"]["pooled_common"] < 0.3
    assert results["held_out"]["cosine"] > 0.8 and 0.9 < results["held_out"]["mirror_cosine"] < 1


def test_the_command_says_what_was_skipped_and_how_near_the_student_came(finished):
    results = json.loads((finished / "results.json").read_text())["held_out"]
    assert (finished.parent / "run.out").read_text().splitlines() == [
        "2 images do not open and were skipped: 00_broken.png, 99_text.jpg",
        f"{finished}/model: cosine to the teacher on held-out images {results['cosine']:.3f} "
        f"(the teacher's mean alone: {results['mean_cosine']:.3f})",
    ]


def test_the_log_has_every_step_and_epoch_and_falls(bench, finished):
    log = bench.log("run")
    steps, epochs = ([line for line in log if ("epoch" in line) == of_epoch] for of_epoch in (False, True))
    assert [line["step"] for line in steps] == list(range(1, 19))
    assert [(line["step"], line["epoch"]) for line in epochs] == [(6, 1), (12, 2), (18, 3)]
    for line in steps:
        parts = sum(line[name] for name in ("cosine", "norm", "relation", "token")) + 4 * line["whitened"]
        assert line["loss"] == pytest.approx(parts, abs=1e-4)
    # So few steps, after a start in closed form, move images apart as the teacher has them; more is not to be expected.
    first, last = (np.mean([line["relation"] for line in part]) for part in (steps[:6], steps[-6:]))
    assert last < 0.9 * first
    assert epochs[0]["correlation"] < epochs[2]["correlation"]
    final = json.loads((finished / "results.json").read_text())["held_out"]
    assert {
        name: final[name] for name in epochs[2] if name not in ("step", "epoch", "pooled_common", "pooled_nearest")
    } == {
        name: value
        for name, value in epochs[2].items()
        if name not in ("step", "epoch", "pooled_common", "pooled_nearest")
    }


def test_nothing_is_left_of_the_work(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        *("cache", "checkpoints", "log.jsonl", "model", "recipe.json", "results.json")
    ]
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["step-00000018"]  # none before the last
    assert not [path for path in finished.rglob("*") if "tmp" in path.name]


def test_the_same_seed_gives_the_same_student_and_another_does_not(bench, finished):
    """Also where labels are there already: what is drawn for the first weights does not depend on it."""
    bench.run("again", "--cache", finished / "cache", "--checkpoint_steps", "7")
    bench.assert_like("again", "run")
    assert not (bench.folder / "again/cache").exists()
    bench.run("other", "--seed", "1")
    assert bench.student("other") != bench.student("run")


LOSSES = "train.distillation.training:distillation_losses"
# Functions of the run, and at which of their calls it is killed; each kill after the first is of the run that goes on.
IN_LABELING = {
    "while it looks for the basis": [("train.distillation.training:principal_directions", 1)],
    "before it keeps the basis": [("train.distillation.training:atomic_write", 1)],
    "while it writes labels": [("train.distillation.crops:save", 2)],
    "between two files of labels, twice": [("train.distillation.training:write_chunk", 2)] * 2,
    "while a worker reads images": [("train.distillation.crops:Teacher.label", 1)],
}
IN_TRAINING = {
    "while it compresses the teacher": [("train.distillation.compress:fit_mlp", 2)],
    "three times": [(LOSSES, 6), (LOSSES, 4), (LOSSES, 3)],
    "within a checkpoint": [("accelerate:Accelerator.save_state", 2)],
    "before a checkpoint counts": [("train.runs:write_json", 3)],
    "while it saves the student": [("transformers:CLIPImageProcessorPil.save_pretrained", 1)],
    "before its first step": [(LOSSES, 1)],
    "before its first checkpoint": [(LOSSES, 4)],
    "before it logs an epoch": [("train.distillation.training:measure", 2)],
    "after a checkpoint": [(LOSSES, 5)],
    "after the last checkpoint": [("train.distillation.training:save_student", 1)],
    "before the results": [("train.distillation.training:write_json", 2)],
}


@pytest.mark.parametrize("moment", [*IN_LABELING, *IN_TRAINING])
def test_a_killed_run_comes_to_the_same(moment, bench, finished):
    output, flags = moment.replace(" ", "_"), ["--checkpoint_steps", "4"]
    if moment in IN_TRAINING:
        flags += ["--cache", finished / "cache"]
    for die_at in {**IN_LABELING, **IN_TRAINING}[moment]:
        status, _, err = bench.run(output, *flags, die_at=die_at)
        assert status == -signal.SIGKILL, err
        assert not (bench.folder / output / "results.json").exists()
        wait_until_free(bench.folder / output)
    status, _, err = bench.run(output, *flags)
    assert status == 0, err
    bench.assert_like(output, "run")
    assert not [path for path in (bench.folder / output).rglob("*") if "tmp" in path.name]


def test_a_killed_runs_workers_end_with_it(bench):
    """One that waits to hand over a batch of images would wait forever, and hold the folder against the next run."""
    images = images_of(bench.folder / "hundred", 100)
    flags = ["--images", images, "--crops_per_image", "1"]
    die_at = ("train.distillation.crops:Teacher.label", 1)
    status, _, err = bench.run("workers", *flags, die_at=die_at, recipe="images.yaml")
    assert status == -signal.SIGKILL, err
    wait_until_free(bench.folder / "workers")


def wait_until_free(folder: Path) -> None:
    """A worker that read images holds the folder until it notices that its parent is gone."""
    for _ in range(60):
        try:
            with exclusive(folder):
                return
        except StorageError:
            time.sleep(0.05)
    raise TimeoutError


def test_a_run_that_goes_on_from_a_checkpoint_does_not_compress_again(bench, finished):
    """The third run would die if it did; the second has no checkpoint yet."""
    flags, compressing = (
        ["--checkpoint_steps", "4", "--cache", finished / "cache"],
        ("train.distillation.training:compress", 1),
    )
    for die_at in ((LOSSES, 2), compressing, (LOSSES, 6)):
        assert bench.run("resumed", *flags, die_at=die_at)[0] == -signal.SIGKILL
    status, _, err = bench.run("resumed", *flags, die_at=compressing)
    assert status == 0, err
    bench.assert_like("resumed", "run")


def test_a_run_goes_on_elsewhere_from_its_pushed_checkpoint(bench, finished):
    """With its labels; neither the teacher is compressed again nor a step is done twice."""
    flags = ["--checkpoint_steps", "4", "--cache", finished / "cache", "--push-to-hub", "someone/student"]
    assert bench.run("away", *flags, "--push-checkpoints", die_at=(LOSSES, 6))[0] == -signal.SIGKILL
    left = bench.log("run")[-1]["step"] - 4
    assert left > 2 and bench.hub.repos["someone/student"] == {}
    resume = [*flags, "--resume", "someone/student"]
    assert bench.run("too_short", *resume, die_at=(LOSSES, left))[0] == -signal.SIGKILL
    status, _, err = bench.run("home", *resume, die_at=("train.distillation.training:compress", 1))
    assert status == 0, err
    bench.assert_like("home", "run")
    pushed = bench.hub.repos["someone/student"]
    for name in ("model.safetensors", "preprocessor_config.json", "README.md"):
        assert pushed[name] == (bench.folder / "home/model" / name).read_bytes()


def test_without_compression_the_student_starts_at_random(bench, finished):
    flags = ["--epochs", "1", "--log_steps", "1"]
    die_at = ("train.distillation.compress:fold", 1)
    status, _, err = bench.run("random_weights", *flags, "--compress", "false", die_at=die_at)
    assert status == 0, err
    status, _, err = bench.run("compressed", *flags, "--cache", bench.folder / "random_weights/cache")
    assert status == 0, err
    first = {name: bench.log(name)[0] for name in ("random_weights", "compressed")}
    assert first["compressed"]["cosine"] < 0.5 * first["random_weights"]["cosine"]
    assert first["compressed"]["token"] < 0.5 * first["random_weights"]["token"]


@pytest.mark.parametrize(("checkpoint_steps", "calls"), [(1, 2), (6, 7)])
def test_checkpoints_at_the_end_of_epochs_change_nothing(checkpoint_steps, calls, bench, finished):
    """Killed before and after the end of an epoch, whose measures must not be lost; once finished, run again."""
    output = f"every_{checkpoint_steps}"
    flags = ["--checkpoint_steps", checkpoint_steps, "--cache", finished / "cache"]
    for function, number in (("measure", 1), ("distillation_losses", calls)):
        assert (
            bench.run(output, *flags, die_at=(f"train.distillation.training:{function}", number))[0] == -signal.SIGKILL
        )
    assert (bench.folder / output / "checkpoints/step-00000006").exists()
    for _ in range(2):
        status, _, err = bench.run(output, *flags)
        assert status == 0, err
        bench.assert_like(output, "run")


def test_a_finished_run_may_write_elsewhere_and_less_often_but_be_no_other(bench, finished):
    """Refused for every field of the recipe, with both values; places and how often things are written are free."""
    shutil.copytree(finished, bench.folder / "copy")
    flags = ["--log_steps", "5", "--checkpoint_steps", "3", "--cache", finished / "cache"]
    status, _, err = bench.run("copy", *flags)
    assert status == 0, err
    bench.assert_like("copy", "run")
    moved = shutil.copytree(bench.folder / "images", bench.folder / "moved/images")
    assert bench.run("copy", "--images", moved, *flags)[0] == 0
    bench.assert_like("copy", "run")
    others = {
        "epochs is 3 there, 4 now": ["--epochs", "4"],
        "seed is 0 there, 5 now": ["--seed", "5"],
        "batch_size is 8 there, 4 now; mirror is True there, False now": ["--batch_size", "4", "--mirror", "false"],
        "token_weight is 1.0 there, 0.5 now": ["--token_weight", "0.5"],
    }
    (moved / "07.png").unlink()
    others["data.images_and_crops is '"] = ["--images", str(moved)]
    for message, change in others.items():
        told = bench.refused("copy", *change)
        assert told.startswith(f"{bench.folder}/copy was made with other settings: ") and message in told
        assert told.endswith(". Use the same, or another folder")
    assert re.search(r"data.images_and_crops is '[0-9a-f]{16}' there, '[0-9a-f]{16}' now", told)
    bench.assert_like("copy", "run")


def test_processes_that_do_not_know_of_each_other_are_refused(bench):
    strangers = {"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_CPU": "false"}
    status, _, err = bench.runs.run(bench.argv("strangers"), environment=strangers)
    assert status == 1 and "error: WORLD_SIZE=2" in err and "accelerate launch" in err


def test_a_second_run_at_the_same_time_is_refused(bench):
    (bench.folder / "held").mkdir()
    with exclusive(bench.folder / "held"):
        told = bench.refused("held")
    assert told == f"{bench.folder}/held: another run is writing here; wait for it or choose another folder"
    assert sorted(path.name for path in (bench.folder / "held").iterdir()) == ["cache", "recipe.json"]


def images_of(folder: Path, count: int, readable: bool = True) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        if readable:
            make_image(folder / f"{number}.png", number)
        else:
            (folder / f"{number}.png").write_text("not an image")
    return folder


MISTAKES = {
    "another width": (
        ["--projection_dim", "48"],
        "embeddings have 48 dimensions, those of the teacher .*teacher have 32",
    ),
    "no patches": (["--image_size", "40"], "image_size 40 is not a multiple of the student's patches, 16"),
    "no heads": (["--hidden_size", "32"], "hidden_size 32 is not a multiple of the student's heads, 64"),
    "a deep student": (["--num_hidden_layers", "4"], "num_hidden_layers 4 is more than the teacher's, 3"),
    "a student as wide": (["--hidden_size", "128"], "cannot be cut out of the teacher .*width 128, 3 layers"),
    "a wide student": (["--hidden_size", "192"], "hidden_size 192 is more than the teacher's, 128"),
    "nothing to compress on": (["--calibration_crops", "0"], "calibration_crops is 0; it must be at least 1"),
    "no epochs": (["--epochs", "0"], "epochs is 0; it must be at least 1"),
    "no checkpoints": (["--checkpoint_steps", "0"], "checkpoint_steps is 0; it must be at least 1"),
    "nothing held out": (["--held_out_every", "0"], "held_out_every is 0; it must be at least 1"),
    "an empty folder": (["--images", "FOLDER/empty"], "FOLDER/empty: no images below it"),
    "a missing folder": (["--images", "FOLDER/missing"], "FOLDER/missing: not a folder of images"),
    "few images": (
        ["--images", "FOLDER/four"],
        "no folder has held_out_every=6 images",
    ),
    "two to measure on": (["--images", "FOLDER/twelve"], "2 held-out images: at least"),
    "a large batch": (["--batch_size", "20"], "19 crops do not fill a batch of 20"),
    "no image opens": (["--images", "FOLDER/bad"], "none of the images opens"),
    "not a video": (["--videos", "FOLDER/text.mp4"], "FOLDER/text.mp4: not a readable video"),
    "a missing video": (["--videos", "FOLDER/missing.mp4"], "FOLDER/missing.mp4: No such file or directory"),
    "no teacher": (["--teacher", "FOLDER/nobody"], "FOLDER/nobody"),
}


@pytest.fixture(scope="module")
def mistaken(bench) -> Path:
    """Folders and films that a run cannot use."""
    folder = bench.folder / "mistaken"
    images_of(folder / "empty", 0)
    images_of(folder / "four", 4)
    images_of(folder / "twelve", 12)
    images_of(folder / "bad", 24, readable=False)
    (folder / "text.mp4").write_text("not a video" * 50)
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_one_line(mistake, bench, mistaken):
    flags, message = MISTAKES[mistake]
    flags = [flag.replace("FOLDER", str(mistaken)) for flag in flags]
    told = bench.refused(f"mistake_{mistake}", *flags, recipe="images.yaml")
    assert re.search(message.replace("FOLDER", str(mistaken)), told), told


def test_many_unreadable_images_are_counted_and_some_named(bench, finished):
    folder = shutil.copytree(bench.folder / "images", bench.folder / "six_bad")
    for number in range(4):
        (folder / f"a{number}.jpg").write_text("not an image")
    status, out, err = bench.run("six", "--images", folder, "--epochs", "1", recipe="images.yaml")
    assert status == 0, err
    told = "6 images do not open and were skipped: 00_broken.png, 99_text.jpg, a0.jpg, a1.jpg, a2.jpg …"
    assert out.splitlines()[0] == told
    assert len(json.loads((bench.folder / "six/results.json").read_text())["skipped_images"]) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [("epochs: 1\nzeal: 2", "no such field: zeal"), ("- a", "a recipe is a table"), (None, "No such file")],
)
def test_recipes_that_cannot_be_used_end_with_a_message(text, message, bench):
    """Exit status 1 and one line, as with any wrong argument."""
    recipe = "wrong.yaml" if text else "missing.yaml"
    if text:
        (bench.folder / recipe).write_text(text)
    told = bench.refused("wrong", recipe=recipe)
    assert told.startswith(f"{bench.folder / recipe}: ") and message in told


def test_the_real_command_killed_at_any_time_comes_to_the_same(bench, finished):
    """Killed while it labels crops, then three times in training."""
    command = [sys.executable, "-m", "train.distill_clip", *bench.argv("killed", "--checkpoint_steps", "2")]
    environment = {**ENVIRONMENT, "TINY_FOLDER": str(bench.folder)}
    folder = bench.folder / "killed"
    log = folder / "log.jsonl"
    moments = [lambda: any(folder.glob("cache/*"))]
    moments += [lambda lines=lines: log.exists() and log.read_text().count("\n") >= lines for lines in (1, 4, 8)]
    for come in moments:
        wait_until_free(folder)
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and not come():
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    wait_until_free(folder)
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    bench.assert_like("killed", "run")


def test_two_processes_share_labels_and_steps(bench, finished):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    for output in ("two", "two_again"):
        argv = [*launch, "-m", "train.distill_clip", *bench.argv(output, "--checkpoint_steps", "4")]
        done = bench.command(*argv, ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr
    results, alone = (json.loads((bench.folder / name / "results.json").read_text()) for name in ("two", "run"))
    assert (results["made_with"]["processes"], results["steps"]) == (2, alone["steps"])
    assert results["held_out"]["cosine"] == pytest.approx(alone["held_out"]["cosine"], abs=0.05)
    assert results["skipped_images"] == alone["skipped_images"]
    names = [
        sorted(path.name for path in (bench.folder / name / "cache").glob("*.safetensors")) for name in ("two", "run")
    ]
    assert names[0] == names[1]
    logs = bench.log("run"), bench.log("two")
    assert len(logs[0]) == len(logs[1])
    for one, two in zip(*(log[:2] for log in logs), strict=True):  # the learning rate of the first step is 0
        assert one == pytest.approx(two, abs=1e-3)
    bench.assert_like("two_again", "two")
    CLIPVisionModelWithProjection.from_pretrained(bench.folder / "two/model")
