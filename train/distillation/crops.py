"""Random crops of images with a CLIP image tower's outputs: computed once, stored in files, read by distillation.

A file holds one pass over up to 256 images of one source: the crops' pixels as the student sees them, the teacher's
embeddings of exactly those crops, and the teacher's tokens when it reads them at the student's size. The file's name is
a digest of everything that its content depends on (images by name and size). So a killed run can continue, and more
passes or another teacher never change existing files.
"""

import hashlib
import itertools
import json
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionModelWithProjection

from data_scripts.formats.photographs import PICTURE_SUFFIXES
from modeling_m2s.decoding_m2s import VideoFrames
from modeling_m2s.images_m2s import rgb
from modeling_m2s.pictures_m2s import DisplayPictures
from modeling_m2s.storage_m2s import atomic_write, exclusive
from modeling_m2s.video_m2s import fingerprint
from modeling_m2s.workers_m2s import end_with_parent
from train.distillation.compress import centered

IMAGES_PER_FILE = 256


@dataclass(frozen=True)
class CropSettings:
    """How a crop is drawn from an image; sizes in pixels."""

    seed: int
    teacher_size: int
    student_size: int
    min_area: float = 0.2  # smallest share of the image; the largest is 1
    max_aspect: float = 4 / 3  # the smallest is its inverse; the crop is then made square
    flip: float = 0.5  # flip, grayscale and jitter are probabilities
    grayscale: float = 0.2
    jitter: float = 0.5
    jitter_strength: float = 0.3  # largest change of brightness, contrast and saturation, up or down


@dataclass(frozen=True)
class Chunk:
    """Crops in one file. `crop` is the number of the pass over the images; None: the middle square, for measuring."""

    folder: Path
    names: tuple[str, ...]
    crop: int | None
    settings: CropSettings

    def path(self, cache: Path, teacher: Mapping[str, Any]) -> Path:
        """The file in `cache`; `teacher` holds everything that labels depend on: weights, layers and basis."""
        sizes = [(self.folder / name).stat().st_size for name in self.names]
        content = [asdict(self.settings), teacher, self.crop, list(zip(self.names, sizes, strict=True))]
        return cache / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]}.safetensors"


def list_images(folder: Path) -> list[str]:
    """Names of the images below a folder, relative to it, in order.

    Raises:
        ValueError: there are none, or the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder of images")
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES
    )
    if not names:
        raise ValueError(f"{folder}: no images below it ({', '.join(PICTURE_SUFFIXES)})")
    return names


def plan_chunks(
    images: Mapping[Path, Sequence[str]], crops_per_image: int, held_out_every: int, settings: CropSettings
) -> tuple[list[Chunk], list[Chunk]]:
    """Chunks to train on and chunks to measure on; every `held_out_every`-th image of each folder is held out.

    Args:
        images: names of the images to use, by folder.

    Raises:
        ValueError: every folder has too few images, so none is held out.
    """
    train, held_out = [], []
    for folder, names in images.items():
        kept = [name for number, name in enumerate(names) if number % held_out_every != held_out_every - 1]
        crops = range(crops_per_image)
        train += [Chunk(folder, tuple(part), crop, settings) for crop in crops for part in _parts(kept)]
        rest = names[held_out_every - 1 :: held_out_every]
        held_out += [Chunk(folder, tuple(part), None, settings) for part in _parts(rest)]
    if not held_out:
        raise ValueError(f"no folder has held_out_every={held_out_every} images, so there is none to measure on")
    return train, held_out


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), IMAGES_PER_FILE):
        yield names[start : start + IMAGES_PER_FILE]


def make_crop(image: Image.Image, name: str, crop: int | None, settings: CropSettings) -> Image.Image:
    """A square crop of the teacher's image size. The same name, crop number and settings give the same pixels."""
    image = rgb(ImageOps.exif_transpose(image))
    size = (settings.teacher_size,) * 2
    if crop is None:
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    random = np.random.default_rng([settings.seed, crop, zlib.crc32(name.encode())])
    image = image.resize(size, Image.Resampling.BICUBIC, box=_random_box(random, image.size, settings))
    if random.random() < settings.flip:
        image = ImageOps.mirror(image)
    if random.random() < settings.grayscale:
        image = ImageOps.grayscale(image).convert("RGB")
    if random.random() < settings.jitter:
        low, high = 1 - settings.jitter_strength, 1 + settings.jitter_strength
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(random.uniform(low, high))
    return image


def _random_box(random: np.random.Generator, size: tuple[int, int], settings: CropSettings) -> tuple[float, ...]:
    """Left, top, right, bottom of a rectangle of random area and shape, limited to the image."""
    area = random.uniform(settings.min_area, 1) * size[0] * size[1]
    aspect = np.exp(random.uniform(-np.log(settings.max_aspect), np.log(settings.max_aspect)))
    width, height = min(size[0], np.sqrt(area * aspect)), min(size[1], np.sqrt(area / aspect))
    left, top = random.uniform(0, size[0] - width), random.uniform(0, size[1] - height)
    return left, top, left + width, top + height


class _Views(Dataset):
    """The crops of a chunk, at the student's and at the teacher's size.

    If an image does not open, the item is its name.
    """

    def __init__(self, chunk: Chunk):
        self.chunk = chunk

    def __len__(self) -> int:
        return len(self.chunk.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray] | str:
        name, size = self.chunk.names[index], (self.chunk.settings.student_size,) * 2
        try:
            with Image.open(self.chunk.folder / name) as image:
                crop = make_crop(image, name, self.chunk.crop, self.chunk.settings)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return name
        return {"pixels": np.asarray(crop.resize(size, Image.Resampling.BICUBIC)), "large": np.asarray(crop)}


class Teacher:
    """A CLIP image tower that labels crops.

    Args:
        layers: numbers (from 1) of the layers after which tokens are taken.
        basis: directions (teacher's width, student's width) that tokens are projected onto.
    """

    def __init__(
        self,
        model: CLIPVisionModelWithProjection,
        mean: Sequence[float],
        std: Sequence[float],
        layers: Sequence[int],
        basis: torch.Tensor,
    ):
        self.model, self.device = model, basis.device
        self.mean, self.std, self.layers, self.basis = mean, std, layers, basis

    @torch.inference_mode()
    def label(self, small: torch.Tensor, large: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tower's embeddings and tokens of crops, at its own and at the student's size, in fp16.

        Args:
            small, large: the same crops, uint8 (n, 3, height, width).

        Returns:
            `embeds` (n, projection_dim) of the large crops. `tokens` (n, layers, 1 + patches, student's width) of the
            small crops: the class token and the same patches as the student's.
        """
        hidden = self._run(small, output_hidden_states=True).hidden_states
        tokens = torch.stack([centered(hidden[layer].float()) @ self.basis for layer in self.layers], 1)
        return {"embeds": self.embed(large), "tokens": tokens.half().cpu()}

    @torch.inference_mode()
    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, projection_dim) of uint8 pixels (n, 3, height, width), fp16."""
        return self._run(pixels).image_embeds.half().cpu()

    def _run(self, pixels: torch.Tensor, **kwargs) -> Any:
        inputs = normalize(pixels.to(self.device), self.mean, self.std).to(self.model.dtype)
        return self.model(inputs, interpolate_pos_encoding=True, **kwargs)


def normalize(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """CLIP's float32 input from uint8 pixels (n, 3, height, width)."""
    means, stds = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return (pixels.float() / 255 - means) / stds


def write_chunk(path: Path, chunk: Chunk, teacher: Teacher, batch_size: int = 32) -> None:
    """Draw a chunk's crops, label them with the teacher and store both."""
    views = DataLoader(_Views(chunk), batch_size, num_workers=1, collate_fn=list, worker_init_fn=end_with_parent)
    batches, skipped = [], []
    for batch in views:
        skipped += [view for view in batch if isinstance(view, str)]
        crops = [view for view in batch if not isinstance(view, str)]
        if crops:
            small, large = (_as_pixels([view[name] for view in crops]) for name in ("pixels", "large"))
            batches.append({"pixels": small, **teacher.label(small, large)})
    names = batches[0] if batches else []
    tensors = {name: torch.cat([batch[name] for batch in batches]).contiguous() for name in names}
    with atomic_write(path) as file:
        file.write(save(tensors, {"skipped": json.dumps(skipped)}))


def _as_pixels(crops: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def small_views(chunks: Iterable[Chunk], most: int) -> torch.Tensor:
    """The first crops at the student's size, uint8 (at most `most`, 3, size, size).

    Raises:
        ValueError: none of the images opens.
    """
    readable = list(itertools.islice((view["pixels"] for view in _readable(chunks)), most))
    if not readable:
        raise ValueError("none of the images opens")
    return _as_pixels(readable)


def _readable(chunks: Iterable[Chunk]) -> Iterator[dict[str, np.ndarray]]:
    views = (view for chunk in chunks for view in map(_Views(chunk).__getitem__, range(len(chunk.names))))
    return (view for view in views if not isinstance(view, str))


def mirror_cosine(chunks: Sequence[Chunk], teacher: Teacher, most: int = 64) -> float:
    """Mean cosine between the teacher's embeddings of at most `most` crops and of their mirror images."""
    pixels = _as_pixels([view["large"] for view in itertools.islice(_readable(chunks), most)])
    sides = [teacher.embed(side).float() for side in (pixels, pixels.flip(3))]
    return round(F.cosine_similarity(*sides).mean().item(), 4)


class CachedCrops(Dataset):
    """Crops with the teacher's labels, from files of `write_chunk`; files are memory-mapped, not read whole.

    Args:
        rows: crops of each file to use; by default all.

    Attributes:
        skipped: names of images that do not open.
    """

    def __init__(self, paths: Iterable[Path], rows: Iterable[Sequence[int]] | None = None):
        paths = list(paths)
        self.parts = list(map(load_file, paths))
        self.skipped = sorted({name for path in paths for name in skipped_names(path)})
        self.rows = list(map(list, rows)) if rows is not None else [range(len(_embeds(part))) for part in self.parts]
        self.places = [(number, row) for number, used in enumerate(self.rows) for row in used]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, row = self.places[index]
        return {name: tensor[row] for name, tensor in self.parts[number].items()}

    def embeds(self) -> torch.Tensor:
        """The teacher's embeddings of all crops, (crops, projection_dim), fp16."""
        return torch.cat([_embeds(part)[list(used)] for part, used in zip(self.parts, self.rows, strict=True) if used])

    def token_scale(self) -> torch.Tensor:
        """Inverse standard deviation (layers, 2, width) of each channel of layer-normed tokens, over the first crops.

        The first of the two is for the class token, the second for all patches.
        """
        tokens = torch.stack([self[index]["tokens"] for index in range(min(IMAGES_PER_FILE, len(self)))]).float()
        normed = F.layer_norm(tokens, tokens.shape[-1:])
        deviations = [normed[:, :, 0].std(0, correction=0), normed[:, :, 1:].std((0, 2), correction=0)]
        return 1 / torch.stack(deviations, 1).clamp(min=1e-3)


def _embeds(part: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return part.get("embeds", torch.empty(0))  # a file is empty if none of its images opens


def used_rows(chunk: Chunk, path: Path, left_out: Collection[str]) -> list[int]:
    """Rows of a chunk's file, except those of images in `left_out`."""
    unreadable = {*skipped_names(path)}
    readable = [name for name in chunk.names if name not in unreadable]
    return [row for row, name in enumerate(readable) if name not in left_out]


def skipped_names(path: Path) -> list[str]:
    """Names of a chunk's images that did not open."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["skipped"])


def export_frames(video: Path, parent: Path, interval: float) -> Path:
    """Write one frame every `interval` seconds of a video as JPEG, shorter side at most 256, and return the folder.

    If the folder exists, it is returned as it is.

    Raises:
        VideoError: the file cannot be read.
        StorageError: another process is writing frames there.
    """
    folder = parent / f"{video.stem}-{interval:g}s-{fingerprint(video)[:8]}"
    if folder.exists():
        return folder
    aside = folder.with_name(folder.name + ".tmp")
    with exclusive(parent), VideoFrames(video) as frames:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        pictures, due = DisplayPictures(frames.first, 256, "rgb24"), 0.0
        for frame in frames:
            if (seconds := frames.seconds(frame.ticks)) >= due:
                picture = Image.fromarray(pictures.read(frame))
                picture.save(aside / f"{seconds:09.2f}.jpg", quality=92)
                due = seconds + interval
        aside.rename(folder)
    return folder
