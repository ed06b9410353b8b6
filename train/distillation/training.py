"""A student's training from its images to its results: the work of `train.distill_clip`."""

import copy
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.optimization import get_cosine_schedule_with_warmup

from modeling_m2s.cards_m2s import write_training
from modeling_m2s.pretrained_m2s import loading, model_revision, name_without_folders
from modeling_m2s.storage_m2s import atomic_write, default_values, write_json
from train.arguments import RunArguments
from train.distillation.compress import BASIS_IMAGES, check_compressible, compress, principal_directions
from train.distillation.crops import (
    CachedCrops,
    Chunk,
    CropSettings,
    Teacher,
    export_frames,
    mirror_cosine,
    normalize,
    plan_chunks,
    small_views,
    used_rows,
    write_chunk,
)
from train.distillation.losses import TeacherSpace, embedding_losses, token_loss
from train.distillation.pooled import center_pooled
from train.distillation.recipe import DistillationData, DistillationRecipe
from train.distillation.sources import ImageFilter, count_by_source
from train.moco.contrast import gather
from train.runs import RunFolder, command_line, made_with, mixed_precision

PATCH_SIZE = 16
HEAD_SIZE = 64
MAX_GRADIENT_NORM = 1.0


class Distillation(nn.Module):
    """The student, which reads pixels in the cache's format."""

    def __init__(self, student: CLIPVisionModelWithProjection, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.student, self.mean, self.std = student, mean, std

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 pixels (batch, 3, size, size) to embeddings (batch, dim) and tokens (batch, layers, tokens, width)."""
        outputs = self.student(normalize(pixels, self.mean, self.std), output_hidden_states=True)
        return outputs.image_embeds, torch.stack(outputs.hidden_states[1:], 1)

    def embed(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 pixels (batch, 3, size, size) to embeddings (batch, dim) and the output before the projection."""
        pooled = self.student.vision_model(normalize(pixels, self.mean, self.std)).pooler_output
        return self.student.visual_projection(pooled), pooled


def print_summary(results: dict[str, Any], output: Path) -> None:
    skipped, held_out = results["skipped_images"], results["held_out"]
    if skipped:
        more = " …" if len(skipped) > 5 else ""
        print(f"{len(skipped)} images do not open and were skipped: {', '.join(skipped[:5])}{more}")
    print(
        f"{output}/model: cosine to the teacher on held-out images {held_out['cosine']:.3f} "
        f"(the teacher's mean alone: {held_out['mean_cosine']:.3f})"
    )


def distill(recipe: DistillationRecipe, data: DistillationData, arguments: RunArguments) -> dict[str, Any]:
    """Label crops, train, and save the student as `OUTPUT/model` and the record as `OUTPUT/results.json`.

    Raises:
        ValueError: embeddings of teacher and student differ in width; a folder has no images; there are too few crops.
        VideoError: a video cannot be read.
        StorageError: the output folder holds a run of another recipe, or another process uses it.
    """
    accelerator = Accelerator(
        mixed_precision=mixed_precision(recipe.bf16),
        cpu=not torch.cuda.is_available(),
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True, data_seed=recipe.seed),
    )
    set_seed(recipe.seed)
    with loading(data.teacher):
        teacher = CLIPVisionModelWithProjection.from_pretrained(data.teacher)
        processor = CLIPImageProcessorPil.from_pretrained(data.teacher)
    student = build_student(recipe, teacher)
    model = Distillation(student, processor.image_mean, processor.image_std)
    revision = model_revision(data.teacher, getattr(teacher.config, "_commit_hash", None))
    borders = group_borders(teacher.config.num_hidden_layers, recipe.num_hidden_layers)

    cache = data.cache or arguments.output / "cache"
    with accelerator.main_process_first():
        frames = [export_frames(Path(video), cache / "frames", recipe.frame_interval) for video in data.videos]
    folders = [*map(Path, data.images), *frames]
    chosen = ImageFilter(recipe.test_part, recipe.leave_out)
    images = {folder: chosen.images(folder) for folder in folders}
    left_out = {folder: chosen.left_out(folder) for folder in folders}
    chunks = plan_crops(images, recipe, teacher.config.image_size)
    teacher = teacher.eval().requires_grad_(False).to(accelerator.device, torch.bfloat16)
    normalized = functools.partial(normalize, mean=processor.image_mean, std=processor.image_std)
    with accelerator.main_process_first():
        directions = basis_path(cache, chunks[0], [revision, borders, recipe.hidden_size])
        basis, energies = find_basis(directions, teacher, chunks[0], borders, recipe.hidden_size, normalized)
    labels = {"revision": revision, "layers": borders[1:], "basis": tensor_digest(basis)}
    paths = [[chunk.path(cache, labels) for chunk in part] for part in chunks]
    facts = {"teacher_revision": revision, "images_and_crops": digest_of(paths)}
    settings, defaults = {**asdict(recipe), "data": facts}, default_values(recipe)
    run = RunFolder(arguments.output, settings, accelerator, arguments.log_with, arguments, defaults)
    with run.held():
        labeler = Teacher(teacher, processor.image_mean, processor.image_std, borders[1:], basis)
        label([*zip(chunks[0] + chunks[1], paths[0] + paths[1], strict=True)], labeler, accelerator)
        crops, held_out = (
            CachedCrops(
                files,
                [used_rows(chunk, file, left_out[chunk.folder]) for chunk, file in zip(part, files, strict=True)],
            )
            for part, files in zip(chunks, paths, strict=True)
        )
        check_enough(len(crops), len(held_out), recipe.batch_size)  # again, without crops left out or unreadable
        if recipe.compress and not run.has_checkpoint():
            some = calibration_crops(crops, recipe)
            inputs, embeds = (tensor.to(accelerator.device) for tensor in (normalized(some["pixels"]), some["embeds"]))
            compress(student.to(accelerator.device), teacher, inputs, embeds.float(), borders, basis, energies)
        state = train(model, crops, held_out, recipe, run, arguments)
        center_pooled(student, pooled_outputs(model, calibration_crops(crops, recipe)["pixels"], accelerator.device))
        mirroring = {"mirror_cosine": mirror_cosine(chunks[1], labeler)} if recipe.mirror else {}
        results = {
            "made_by": "train.distill_clip",
            "teacher": name_without_folders(data.teacher),
            "recipe": asdict(recipe),
            "data": facts,
            "sources": [
                source
                for name, folder in zip([*data.images, *data.videos], folders, strict=True)
                for source in count_by_source({*images[folder]} - left_out[folder], Path(name).name)
            ],
            "skipped_images": sorted({*crops.skipped, *held_out.skipped}),
            "crops": len(crops),
            "held_out_images": len(held_out),
            "parameters": sum(parameter.numel() for parameter in student.parameters()),
            "steps": state["step"],
            "training_minutes": round(state["seconds"] / 60, 1),
            "held_out": {**measure(model, held_out, accelerator), **mirroring},
            "made_with": made_with(accelerator),
            "command": command_line(),
        }
        if accelerator.is_main_process:
            save_student(student, processor, recipe.image_size, arguments.output / "model")
            write_training(arguments.output / "model", training_record(results), arguments.push_to_hub)
            write_json(arguments.output / "results.json", results)
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return results


def training_record(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results for the student's card; measures on held-out images have the form of `eval.probe`."""
    measured = dict(results["held_out"])
    trivial = {"teacher's mean": {"cosine": measured.pop("mean_cosine")}, "chance": {"nearest": measured.pop("chance")}}
    # Measures of the teacher alone.
    teacher = {"common": measured.pop("teacher_common")}
    if "mirror_cosine" in measured:
        teacher["mirror_cosine"] = measured.pop("mirror_cosine")
    probes = {"student, beside its teacher": measured, "teacher": teacher}
    return {
        **{name: value for name, value in results.items() if name not in ("command", "held_out", "skipped_images")},
        "counts": {name: results[name] for name in ("crops", "held_out_images")}
        | {"images_that_do_not_open": len(results["skipped_images"])},
        "evaluations": {
            "held-out images": {
                "figure": "cosine",
                "scenes": {"test": results["held_out_images"]},
                "probes": {
                    probe: {"figures": {name: {"mean": value} for name, value in values.items()}}
                    for probe, values in probes.items()
                },
                "trivial": trivial,
            }
        },
    }


def plan_crops(
    images: Mapping[Path, Sequence[str]], recipe: DistillationRecipe, teacher_size: int
) -> tuple[list[Chunk], list[Chunk]]:
    """Chunks of crops to train on and to measure on.

    Raises:
        ValueError: fewer images than training and measuring need.
    """
    settings = CropSettings(recipe.seed, teacher_size, recipe.image_size)
    chunks = plan_chunks(images, recipe.crops_per_image, recipe.held_out_every, settings)
    check_enough(*(sum(len(chunk.names) for chunk in part) for part in chunks), recipe.batch_size)
    return chunks


def check_enough(num_crops: int, num_held_out: int, batch_size: int) -> None:
    if num_crops < batch_size:
        raise ValueError(f"{num_crops} crops do not fill a batch of {batch_size}")
    if num_held_out < 3:
        raise ValueError(f"{num_held_out} held-out images: at least three are needed to measure neighbors")


def build_student(recipe: DistillationRecipe, teacher: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    config = teacher.config
    if recipe.projection_dim != config.projection_dim:
        raise ValueError(
            f"the student's embeddings have {recipe.projection_dim} dimensions, those of the teacher "
            f"{teacher.name_or_path} have {config.projection_dim}: set projection_dim to {config.projection_dim}"
        )
    if recipe.image_size % PATCH_SIZE:
        raise ValueError(f"image_size {recipe.image_size} is not a multiple of the student's patches, {PATCH_SIZE}")
    if recipe.hidden_size % HEAD_SIZE:
        raise ValueError(f"hidden_size {recipe.hidden_size} is not a multiple of the student's heads, {HEAD_SIZE}")
    student = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.num_hidden_layers,
            intermediate_size=recipe.intermediate_size,
            num_attention_heads=recipe.hidden_size // HEAD_SIZE,
            image_size=recipe.image_size,
            patch_size=PATCH_SIZE,
            projection_dim=recipe.projection_dim,
            hidden_act=config.hidden_act,
            attn_implementation="eager",  # with so few tokens, a fused kernel is not needed
        )
    )
    for name in ("hidden_size", "num_hidden_layers"):
        if getattr(recipe, name) > getattr(config, name):
            raise ValueError(f"{name} {getattr(recipe, name)} is more than the teacher's, {getattr(config, name)}")
    if recipe.compress:
        check_compressible(student.config, config)
    return student


def group_borders(teacher_layers: int, student_layers: int) -> list[int]:
    """0, then the number (from 1) of the teacher layer at which each student layer ends."""
    return [round(teacher_layers * number / student_layers) for number in range(student_layers + 1)]


def basis_path(cache: Path, chunks: list[Chunk], rest: list[Any]) -> Path:
    """The file in which `find_basis` stores its result, named by a digest of the crops that it reads and of `rest`."""
    images = np.cumsum([len(chunk.names) for chunk in chunks]) - BASIS_IMAGES
    used = [chunk.path(cache, {}).name for chunk in chunks[: int((images < 0).sum()) + 1]]
    return cache / f"basis-{hashlib.sha256(json.dumps([used, *rest]).encode()).hexdigest()[:24]}.safetensors"


def find_basis(
    path: Path,
    teacher: CLIPVisionModelWithProjection,
    chunks: list[Chunk],
    borders: list[int],
    width: int,
    normalized: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """`principal_directions` of the teacher on the first crops, computed once and stored in a file."""
    if not path.exists():
        inputs = normalized(small_views(chunks, BASIS_IMAGES).to(teacher.device))
        with torch.no_grad():
            basis, energies = principal_directions(teacher, inputs, borders, width)
        with atomic_write(path) as file:
            file.write(save({"basis": basis.cpu().contiguous(), "energies": energies.cpu()}))
    kept = load_file(path)
    return kept["basis"].to(teacher.device), kept["energies"]


def tensor_digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()[:16]


def calibration_crops(crops: CachedCrops, recipe: DistillationRecipe) -> dict[str, torch.Tensor]:
    """Randomly chosen crops, by the recipe's seed, on which the teacher is compressed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randperm(len(crops), generator=generator)[: recipe.calibration_crops].tolist()
    return default_collate([{name: crops[index][name] for name in ("pixels", "embeds")} for index in chosen])


@torch.no_grad()
def pooled_outputs(model: Distillation, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The student's outputs before the projection, (crops, width), for uint8 pixels (crops, 3, size, size)."""
    return torch.cat([model.embed(batch.to(device))[1].float().cpu() for batch in pixels.split(64)])


def digest_of(paths: list[list[Path]]) -> str:
    """Sixteen hex digits that change with the images, their crops or the labels."""
    return hashlib.sha256(" ".join(path.name for part in paths for path in part).encode()).hexdigest()[:16]


def label(files: list[tuple[Chunk, Path]], teacher: Teacher, accelerator: Accelerator) -> None:
    """Label the files that are not labeled yet with the teacher; processes share the files."""
    missing = [(chunk, path) for chunk, path in files if not path.exists()]
    accelerator.wait_for_everyone()
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    with progress("labeling crops", sum(len(chunk.names) for chunk, _ in mine), accelerator) as bar:
        for chunk, path in mine:
            write_chunk(path, chunk, teacher)
            bar.update(len(chunk.names))
    accelerator.wait_for_everyone()


def progress(what: str, total: int, accelerator: Accelerator, initial: int = 0) -> tqdm:
    return tqdm(desc=what, total=total, initial=initial, disable=None if accelerator.is_main_process else True)


def train(
    model: Distillation,
    crops: CachedCrops,
    held_out: CachedCrops,
    recipe: DistillationRecipe,
    run: RunFolder,
    arguments: RunArguments,
) -> dict[str, Any]:
    """Train all epochs, from the latest checkpoint on; returns the last state: `step` and `seconds` of training."""
    accelerator = run.accelerator
    loader = DataLoader(crops, recipe.batch_size, shuffle=True, drop_last=True)
    steps_per_epoch = len(loader)
    token_scale = crops.token_scale().to(accelerator.device)
    space = TeacherSpace.fit(crops.embeds(), recipe.whitening_shrinkage).to(accelerator.device)
    num_steps = recipe.epochs * steps_per_epoch
    optimizers = build_optimizers(model, recipe)
    schedulers = [
        get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup_share * num_steps), num_steps)
        for optimizer in optimizers
    ]
    prepared, loader, *rest = accelerator.prepare(model, loader, *optimizers, *schedulers)
    optimizers, schedulers = rest[: len(optimizers)], rest[len(optimizers) :]
    state = {"seconds": 0.0, **run.restore()}
    bar = progress("training", num_steps, accelerator, initial=state["step"])
    for epoch in range(state["step"] // steps_per_epoch, recipe.epochs):
        loader.set_epoch(epoch)
        for batch in accelerator.skip_first_batches(loader, state["step"] % steps_per_epoch):
            started = time.monotonic()
            if recipe.mirror:
                mirror_half(batch, recipe.seed + state["step"], accelerator.process_index, accelerator.num_processes)
            losses = distillation_losses(prepared, batch, space, token_scale, recipe)
            accelerator.backward(losses["loss"])
            accelerator.clip_grad_norm_(prepared.parameters(), MAX_GRADIENT_NORM)
            for stepped in (*optimizers, *schedulers):
                stepped.step()
            for optimizer in optimizers:
                optimizer.zero_grad()
            state["step"] += 1
            state["seconds"] += time.monotonic() - started
            bar.update()
            if state["step"] % arguments.log_steps == 0:
                log_losses(losses, state["step"], run)
            if state["step"] % steps_per_epoch == 0:
                run.log(state["step"], epoch=epoch + 1, **measure(model, held_out, accelerator))
            if state["step"] % arguments.checkpoint_steps == 0 or state["step"] == num_steps:
                run.save(**state)
    bar.close()
    return state


def log_losses(losses: dict[str, torch.Tensor], step: int, run: RunFolder) -> None:
    """Log the mean losses over all processes."""
    means = run.accelerator.reduce({name: value.detach() for name, value in losses.items()}, reduction="mean")
    run.log(step, **{name: round(value.item(), 5) for name, value in means.items()})


def mirror_half(batch: dict[str, torch.Tensor], seed: int, share: int = 0, shares: int = 1) -> None:
    """Mirror a random half of a batch's crops, and the positions of their tokens, in place.

    Args:
        share: the number of this share of the batch among `shares` equal ones; the half is drawn for the whole batch.

    This doubles the crops without new labels. It works because CLIP's embeddings of a photograph and its mirror image
    are much nearer to each other than a small student comes to either (`mirror_cosine` in the results).
    """
    draws = torch.rand(shares * len(batch["pixels"]), generator=torch.Generator().manual_seed(seed))
    chosen = (draws.chunk(shares)[share] < 0.5).to(batch["pixels"].device)
    tokens = batch["tokens"][chosen]
    side = math.isqrt(tokens.shape[2] - 1)
    mirrored = tokens[:, :, 1:].unflatten(2, (side, side)).flip(3).flatten(2, 3)
    batch["tokens"][chosen] = torch.cat([tokens[:, :, :1], mirrored], 2)
    batch["pixels"][chosen] = batch["pixels"][chosen].flip(3)


def distillation_losses(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    space: TeacherSpace,
    token_scale: torch.Tensor,
    recipe: DistillationRecipe,
) -> dict[str, torch.Tensor]:
    """The losses of a batch and, as `loss`, their weighted sum; embeddings of all processes are compared."""
    embeds, tokens = model(batch["pixels"])
    student_BD, teacher_BD = gather(embeds.float()), gather(batch["embeds"].float())
    losses = embedding_losses(student_BD, teacher_BD, space, recipe.relation_temperature)
    losses["token"] = token_loss(tokens.float(), batch["tokens"].float(), token_scale)
    return {"loss": sum(getattr(recipe, f"{name}_weight") * value for name, value in losses.items()), **losses}


def build_optimizers(model: Distillation, recipe: DistillationRecipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for the rest."""
    parameters = dict(model.named_parameters())
    matrices = {name for name, value in parameters.items() if ".layers." in name and value.ndim == 2}
    decay = {"weight_decay": recipe.weight_decay}
    others = [value for name, value in parameters.items() if name not in matrices]
    return [
        torch.optim.Muon(
            [parameters[name] for name in sorted(matrices)],
            lr=recipe.muon_learning_rate,
            adjust_lr_fn="match_rms_adamw",
            **decay,
        ),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), **decay),
    ]


@torch.no_grad()
def measure(model: Distillation, held_out: CachedCrops, accelerator: Accelerator) -> dict[str, float]:
    """Compare the student with its teacher on the middle squares of held-out images.

    Returns:
        `cosine` and `length`: means of the cosine to the teacher's embedding and of the ratio of their lengths.
        `correlation`: correlation with the teacher of the cosines of all image pairs, after subtracting each encoder's
        mean embedding.
        `nearest`, `pooled_nearest`: share of images with the same nearest other image as for the teacher, by the
        embedding and by the output before the projection, each minus its mean.
        `common`, `pooled_common`, `teacher_common`: share of the squared length that all images have in common.
        `mean_cosine`: `cosine` if every image gets the teacher's mean. `chance`: 1 / (images - 1).
    """
    model.eval()
    batches = DataLoader(held_out, batch_size=64)
    read = [(*model.embed(batch["pixels"].to(accelerator.device)), batch["embeds"]) for batch in batches]
    model.train()
    student_ND, pooled_Nd, teacher_ND = (
        torch.cat([each.float().cpu() for each in sides]) for sides in zip(*read, strict=True)
    )
    similarities = [_similarities(embeds - embeds.mean(0)) for embeds in (student_ND, teacher_ND, pooled_Nd)]
    upper = torch.triu(torch.ones_like(similarities[0]), 1).bool()
    nearest = [matrix.argmax(1) for matrix in similarities]
    cosine = F.cosine_similarity(student_ND, teacher_ND)
    measures = {
        "cosine": cosine.mean(),
        "length": (student_ND.norm(dim=1) / teacher_ND.norm(dim=1)).mean(),
        "correlation": torch.corrcoef(torch.stack([matrix[upper] for matrix in similarities[:2]]))[0, 1],
        "nearest": (nearest[0] == nearest[1]).float().mean(),
        "pooled_nearest": (nearest[2] == nearest[1]).float().mean(),
        "common": common_share(student_ND),
        "pooled_common": common_share(pooled_Nd),
        "teacher_common": common_share(teacher_ND),
        "mean_cosine": F.cosine_similarity(teacher_ND, teacher_ND.mean(0, keepdim=True)).mean(),
        "chance": torch.tensor(1 / (len(teacher_ND) - 1)),
    }
    return {name: round(value.item(), 4) for name, value in measures.items()}


def common_share(embeds_ND: torch.Tensor) -> torch.Tensor:
    """Squared length of the mean, divided by the mean squared length: 1 if all embeddings are equal."""
    return embeds_ND.mean(0).square().sum() / embeds_ND.square().sum(1).mean()


def _similarities(embeds_ND: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs (N, N); -inf for an image with itself."""
    unit_ND = F.normalize(embeds_ND, dim=1)
    return (unit_ND @ unit_ND.mT).fill_diagonal_(-torch.inf)


def save_student(
    student: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil, image_size: int, folder: Path
) -> None:
    """Save the weights in fp16, which halves the file; the configuration says float32, so they are loaded as such."""
    size = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    small = copy.deepcopy(student).half()
    small.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "dtype": "float32"})
    CLIPImageProcessorPil(**{**processor.to_dict(), **size}).save_pretrained(folder)
