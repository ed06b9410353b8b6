"""Crops and their labels: each drawn again from what it depends on, each label against transformers called by hand."""

import io
import json
import wave
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_videos import make_video
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from modeling_m2s.storage_m2s import StorageError, exclusive
from modeling_m2s.video_m2s import VideoError
from train.distillation import crops
from train.distillation.crops import (
    CachedCrops,
    Chunk,
    CropSettings,
    Teacher,
    export_frames,
    list_images,
    make_crop,
    mirror_cosine,
    normalize,
    plan_chunks,
    small_views,
    used_rows,
    write_chunk,
)

pytestmark = pytest.mark.slow

SETTINGS = CropSettings(seed=3, teacher_size=64, student_size=32)
PLAIN = {"flip": 0.0, "grayscale": 0.0, "jitter": 0.0}
LAYERS = (1, 3)
WIDTH = 24  # of the basis


def noise(size: tuple[int, int], seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Blocks of random color, so that every part of the image looks different."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).convert(mode)


def places(size: tuple[int, int]) -> Image.Image:
    """Red says how far right a pixel is, green how far down, from 0 to 255."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], 2).round().astype(np.uint8))


def build_tower() -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=64, patch_size=16, projection_dim=32, initializer_factor=3.0)
    return CLIPVisionModelWithProjection(config).eval()


@pytest.fixture(scope="module")
def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})


def build_teacher(processor: CLIPImageProcessorPil, dtype: torch.dtype = torch.bfloat16) -> Teacher:
    basis = torch.linalg.qr(torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(1))).Q
    return Teacher(build_tower().to(dtype), processor.image_mean, processor.image_std, LAYERS, basis)


@pytest.fixture(scope="module")
def teacher(processor) -> Teacher:
    return build_teacher(processor)


def as_pixels(*images: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def small(image: Image.Image) -> Image.Image:
    return image.resize((32, 32), Image.Resampling.BICUBIC)


def assert_same(one: Image.Image, other: Image.Image) -> None:
    assert np.array_equal(np.asarray(one), np.asarray(other))


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_a_crop_depends_on_name_number_and_settings_alone():
    image = noise((90, 60))
    crop = make_crop(image, "a.png", 0, SETTINGS)
    np.random.default_rng(0).random()
    np.random.seed(7)
    assert_same(make_crop(image.copy(), "a.png", 0, replace(SETTINGS)), crop)
    others = [("b.png", 0, SETTINGS), ("a.png", 1, SETTINGS), ("a.png", 0, replace(SETTINGS, seed=4))]
    for other in others:
        assert distance(make_crop(image, *other), crop) > 5


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (200, 20), (7, 300)])
def test_crops_are_rectangles_of_the_image_within_the_settings(size):
    """The box is read off the crop's own pixels, which say where they come from."""
    settings = replace(SETTINGS, **PLAIN)
    areas, lefts = [], []
    for number in range(200):
        crop = np.asarray(make_crop(places(size), "a", number, settings), dtype=float) / 255
        (left, right), (top, bottom) = ((crop[..., c].min(), crop[..., c].max()) for c in (0, 1))
        assert crop[0, 0, 0] == left and crop[0, -1, 0] == right and crop[0, 0, 1] == top and crop[-1, 0, 1] == bottom
        width, height = (right - left) * size[0], (bottom - top) * size[1]
        if min(size) >= 60:  # else a pixel's own width counts
            assert width * height > 0.17 * size[0] * size[1]
            assert 0.9 * 3 / 4 < width / height < 1.1 * 4 / 3 or min(1 - right + left, 1 - bottom + top) < 0.05
        areas.append((right - left) * (bottom - top))
        lefts.append((left, 1 - right))
    assert max(areas) - min(areas) > 0.1
    assert min(left for left, _ in lefts) < 0.05 and min(right for _, right in lefts) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (90, 60), (4000, 3000)])
def test_boxes_lie_inside_the_image(size):
    random = np.random.default_rng(0)
    for settings in (SETTINGS, replace(SETTINGS, min_area=1e-4, max_aspect=9.0)):
        for _ in range(300):
            left, top, right, bottom = map(np.float32, crops._random_box(random, size, settings))
            assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


def test_changes_come_as_often_as_asked():
    image = places((64, 64))
    whole = replace(SETTINGS, min_area=1.0, max_aspect=1.0, **PLAIN)
    assert_same(make_crop(image, "a", 0, whole), image)
    assert_same(make_crop(image, "a", 0, replace(whole, flip=1.0)), ImageOps.mirror(image))
    assert_same(make_crop(image, "a", 0, replace(whole, grayscale=1.0)), image.convert("L").convert("RGB"))
    jittered = replace(whole, jitter=1.0, jitter_strength=0.3)
    assert 1 < distance(make_crop(image, "a", 0, jittered), image) < 80
    assert_same(make_crop(image, "a", 0, replace(jittered, jitter_strength=0.0)), image)
    flips = sum(make_crop(image, "a", n, replace(whole, flip=0.25)).getpixel((0, 0))[0] > 128 for n in range(200))
    assert 25 < flips < 80


@pytest.mark.parametrize("crop", [None, 0, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (90, 60)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_any_image_makes_a_square(mode, size, crop):
    image = noise(size, mode="L").convert("I").convert(mode) if mode == "I;16" else noise(size, mode=mode)
    square = make_crop(image, "a", crop, SETTINGS)
    assert (square.size, square.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize("crop", [None, 2])
def test_gray_palette_and_opaque_images_are_what_they_look_like(crop):
    image = noise((90, 60), mode="L")
    expected = make_crop(image.convert("RGB"), "a", crop, SETTINGS)
    assert len(np.unique(np.asarray(expected))) > 50
    for mode in ("L", "P", "LA", "RGBA"):
        assert_same(make_crop(image.convert(mode), "a", crop, SETTINGS), expected)


@pytest.mark.parametrize("crop", [None, 2])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270), (8, Image.Transpose.ROTATE_90)],
)
def test_cameras_orientation_is_applied(orientation, turned, crop):
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    noise((90, 60)).save(file, "PNG", exif=exif)
    expected = make_crop(noise((90, 60)).transpose(turned), "a", crop, SETTINGS)
    assert_same(make_crop(Image.open(file), "a", crop, SETTINGS), expected)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (301, 150)])
def test_the_plain_square_is_clips(size, processor):
    image = noise(size)
    square = make_crop(image, "a", None, SETTINGS)
    assert_same(square, make_crop(image, "b", None, replace(SETTINGS, seed=9)))
    assert_same(square, ImageOps.fit(image, (64, 64), Image.Resampling.BICUBIC))
    pixels = processor(image, do_normalize=False, do_rescale=False)["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs(np.asarray(square, dtype=float) - pixels).mean() < 3


def test_normalized_pixels_are_the_processors(processor):
    images = [noise((64, 64), seed) for seed in range(3)]
    expected = processor(images, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    found = normalize(pixels, processor.image_mean, processor.image_std)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 32, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_are_what_the_tower_says(dtype, size, processor):
    """Embeddings of the large crops; tokens of the small ones, as the layers' outputs lie in the basis, centered."""
    images = [noise((64, 64), seed) for seed in range(3)]
    smaller = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
    teacher, exact = build_teacher(processor, dtype), build_tower()
    labels = teacher.label(as_pixels(*smaller), as_pixels(*images))
    patches = (size // 16) ** 2
    assert {name: (value.dtype, tuple(value.shape)) for name, value in labels.items()} == {
        "embeds": (torch.float16, (3, 32)),
        "tokens": (torch.float16, (3, len(LAYERS), 1 + patches, WIDTH)),
    }
    assert torch.equal(teacher.embed(as_pixels(*images)), labels["embeds"])

    heard: list[torch.Tensor] = []
    for layer in exact.vision_model.encoder.layers:
        layer.layer_norm2.register_forward_pre_hook(lambda _, seen: heard.append(seen[0]))
        layer.mlp.register_forward_hook(lambda _, __, out: heard.append(out))
    with torch.no_grad():
        embeds = exact(processor(images, return_tensors="pt")["pixel_values"]).image_embeds
        heard.clear()
        inputs = processor(smaller, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
        exact(inputs, interpolate_pos_encoding=True)
    tolerance = {"atol": 0.01, "rtol": 0.002} if dtype == torch.float32 else {"atol": 0.2, "rtol": 0.05}
    torch.testing.assert_close(labels["embeds"].float(), embeds, **tolerance)
    for image in range(3):
        for place, layer in enumerate(LAYERS):
            for token in range(1 + patches):
                state = (heard[2 * layer - 2] + heard[2 * layer - 1])[image, token]
                state = state - sum(state) / len(state)
                expected = torch.stack([state @ teacher.basis[:, direction] for direction in range(WIDTH)])
                torch.testing.assert_close(labels["tokens"][image, place, token].float(), expected, **tolerance)
    assert F.cosine_similarity(labels["embeds"][0].float(), embeds[1], dim=0) < 0.99
    assert (labels["tokens"][:, 0] - labels["tokens"][:, 1]).abs().mean() > 0.4


def test_mirror_cosine_is_one_for_images_that_are_their_own_mirror(tmp_path, teacher):
    half = np.asarray(noise((32, 64)))
    Image.fromarray(np.concatenate([half, half[:, ::-1]], 1)).save(tmp_path / "even.png")
    places((64, 64)).save(tmp_path / "odd.png")
    (tmp_path / "bad.png").write_text("not an image")
    even, odd = (
        mirror_cosine([Chunk(tmp_path, (name, "bad.png"), None, SETTINGS)], teacher) for name in ("even.png", "odd.png")
    )
    assert even == 1 > odd
    both = [Chunk(tmp_path, (f"{name}.png",), None, SETTINGS) for name in ("even", "odd")]
    assert mirror_cosine(both, teacher) == pytest.approx((even + odd) / 2, abs=1e-3)
    assert mirror_cosine(both, teacher, most=1) == 1


@pytest.fixture
def folder(tmp_path) -> Path:
    """Nine images in two folders, one below the other."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number in range(6):
        noise((90, 60), number).save(folder / f"{number}.png")
    for number in range(3):
        noise((40, 70), 10 + number).save(folder / "below" / f"{number}.JPG", "JPEG")
    (folder / "notes.txt").write_text("not an image by its name")
    return folder


def test_images_are_listed_below_a_folder_in_order(folder):
    assert list_images(folder) == [*(f"{n}.png" for n in range(6)), *(f"below/{n}.JPG" for n in range(3))]


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/empty: no images below it"):
        list_images(tmp_path / "empty")
    with pytest.raises(ValueError, match=f"{tmp_path}/missing: not a folder of images"):
        list_images(tmp_path / "missing")


def listed(*folders: Path) -> dict[Path, list[str]]:
    return {folder: list_images(folder) for folder in folders}


@pytest.mark.parametrize("held_out_every", [2, 4, 9])
def test_every_image_is_trained_on_or_held_out(held_out_every, folder, monkeypatch):
    monkeypatch.setattr(crops, "IMAGES_PER_FILE", 2)
    folders = [folder] if held_out_every > 3 else [folder, folder / "below"]
    train, held_out = plan_chunks(listed(*folders), 3, held_out_every, SETTINGS)
    for source in {chunk.folder for chunk in train}:
        names = list_images(source)
        measured = [name for chunk in held_out if chunk.folder == source for name in chunk.names]
        assert measured == [name for number, name in enumerate(names, 1) if number % held_out_every == 0]
        for crop in range(3):
            learned = [name for c in train if (c.folder, c.crop) == (source, crop) for name in c.names]
            assert sorted(learned + measured) == sorted(names) and not set(learned) & set(measured)
    assert {chunk.crop for chunk in train} == {0, 1, 2} and {chunk.crop for chunk in held_out} == {None}
    assert all(chunk.settings == SETTINGS for chunk in train + held_out)
    assert all(1 <= len(chunk.names) <= 2 for chunk in train + held_out)


def test_plans_without_images_to_measure_on_are_refused(folder):
    with pytest.raises(ValueError, match="held_out_every=10 images"):
        plan_chunks(listed(folder), 1, 10, SETTINGS)


OTHER_SETTINGS = {field.name: getattr(SETTINGS, field.name) + 1 for field in fields(CropSettings)}


def test_a_files_name_tells_what_it_depends_on(folder):
    label = {"revision": "abc", "layers": [1, 2], "basis": "012"}
    cache, chunk = folder / "cache", Chunk(folder, ("0.png", "1.png"), 0, SETTINGS)
    path = chunk.path(cache, label)
    assert path == replace(chunk, settings=replace(SETTINGS)).path(cache, dict(label))
    assert path.parent == folder / "cache"
    others = [
        *(
            replace(chunk, settings=replace(SETTINGS, **{name: value})).path(cache, label)
            for name, value in OTHER_SETTINGS.items()
        ),
        chunk.path(cache, {**label, "revision": "abd"}),
        chunk.path(cache, {**label, "layers": [1, 3]}),
        chunk.path(cache, {**label, "basis": "013"}),
        *(
            Chunk(folder, names, crop, SETTINGS).path(cache, label)
            for names, crop in [
                (("0.png",), 0),
                (("1.png", "0.png"), 0),
                (("0.png", "2.png"), 0),
                (("0.png", "1.png"), 1),
                (("0.png", "1.png"), None),
            ]
        ),
    ]
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes() + b"\0")
    others.append(chunk.path(cache, label))
    assert len({path, *others}) == len(others) + 1


def test_files_stay_when_images_move_or_others_are_added(folder, tmp_path):
    def names(folders: list[Path], crops_per_image: int) -> list[str]:
        parts = plan_chunks(listed(*folders), crops_per_image, 3, SETTINGS)
        return [chunk.path(tmp_path, {}).name for part in parts for chunk in part]

    first = names([folder], 2)
    moved = folder.rename(tmp_path / "moved")
    assert names([moved], 2) == first
    (tmp_path / "more").mkdir()
    for number in range(4):
        noise((50, 50), 20 + number).save(tmp_path / "more" / f"{number}.png")
    for longer in (names([moved, tmp_path / "more"], 2), names([moved], 3)):
        assert set(first) < set(longer)


UNREADABLE = ("cut.png", "empty.jpg", "folder.png", "text.jpg")


@pytest.fixture
def damaged(folder) -> Path:
    """The folder with images that do not open."""
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "text.jpg").write_text("not an image")
    return folder


def test_cached_crops_are_the_images_in_order_with_their_labels(damaged, teacher, tmp_path):
    """Three files, one of them without a single readable image; batches that do not divide."""
    parts = [
        (("0.png", "cut.png", "1.png", "2.png", "below/0.JPG"), 1),
        (UNREADABLE[1:], 0),
        (("text.jpg", "5.png", "below/2.JPG"), None),
    ]
    chunks = [Chunk(damaged, names, crop, SETTINGS) for names, crop in parts]
    paths = [chunk.path(tmp_path / "cache", {}) for chunk in chunks]
    for path, chunk in zip(paths, chunks, strict=True):
        write_chunk(path, chunk, teacher, batch_size=2)
    cached = CachedCrops(paths)
    assert cached.skipped == sorted(UNREADABLE)
    expected = [(name, crop) for names, crop in parts for name in names if name not in UNREADABLE]
    assert len(cached) == len(expected) == 6
    labels = []
    for row, (name, crop) in enumerate(expected):
        square = make_crop(Image.open(damaged / name), name, crop, SETTINGS)
        pixels = as_pixels(small(square))
        assert torch.equal(cached[row]["pixels"], pixels[0])
        labels.append({k: v[0] for k, v in teacher.label(pixels, as_pixels(square)).items()})
    for row in range(6):
        for name, tolerance in (("embeds", 0.02), ("tokens", 0.05)):
            found = cached[row][name].float()
            distances = [(found - label[name].float()).abs().mean().item() for label in labels]
            assert distances[row] < tolerance < min(distances[:row] + distances[row + 1 :])
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == sorted(path.name for path in paths)
    left_out = ("1.png", "below/2.JPG")
    rows = [used_rows(chunk, path, left_out) for chunk, path in zip(chunks, paths, strict=True)]
    some = CachedCrops(paths, rows)
    kept = [row for row, (name, _) in enumerate(expected) if name not in left_out]
    assert (len(some), some.skipped) == (len(kept), cached.skipped)
    assert torch.equal(some.embeds(), cached.embeds()[kept])
    for index, row in enumerate(kept):
        assert all(torch.equal(some[index][name], cached[row][name]) for name in cached[row])


def test_images_too_large_to_be_true_are_skipped(folder, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 60)  # an error from twice that on
    write_chunk(tmp_path / "a", Chunk(folder, ("0.png", "below/0.JPG"), 0, SETTINGS), teacher)
    assert (len(CachedCrops([tmp_path / "a"])), CachedCrops([tmp_path / "a"]).skipped) == (1, ["0.png"])


def test_nothing_readable_makes_no_crops(damaged, teacher, tmp_path):
    write_chunk(tmp_path / "a", Chunk(damaged, UNREADABLE, 0, SETTINGS), teacher)
    cached = CachedCrops([tmp_path / "a"])
    assert (len(cached), cached.skipped) == (0, sorted(UNREADABLE))


def test_small_views_are_the_first_crops_that_open(damaged):
    chunks = [
        Chunk(damaged, ("cut.png", "0.png", "1.png"), 1, SETTINGS),
        Chunk(damaged, (*UNREADABLE, "below/2.JPG"), None, SETTINGS),
    ]
    expected = [
        small(make_crop(Image.open(damaged / name), name, crop, SETTINGS))
        for name, crop in [("0.png", 1), ("1.png", 1), ("below/2.JPG", None)]
    ]
    for most in (1, 2, 3, 9):
        assert torch.equal(small_views(chunks, most), as_pixels(*expected[:most]))
    with pytest.raises(ValueError, match="none of the images opens"):
        small_views([Chunk(damaged, UNREADABLE, 0, SETTINGS)], 5)


def test_token_scale_is_one_over_the_deviation_of_each_normed_channel(tmp_path):
    """Of the first crops, over files, for the class token and for all patches; channels that stand still, 1000."""
    random = np.random.default_rng(0)
    parts = [random.normal(1, 3, (count, 2, 1 + 4, 7)).astype(np.float16) for count in (6, 5)]
    for part in parts:
        part[:, 1, 0] = parts[0][0, 1, 0]
    tokens = np.concatenate(parts)
    for number, tensors in enumerate(
        [{}, *({"pixels": part, "embeds": part[:, 0, 0], "tokens": part} for part in parts)]
    ):
        tensors = {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}
        save_file(tensors, tmp_path / str(number), {"skipped": json.dumps([])})
    expected = np.zeros((2, 2, 7))
    for layer in range(2):
        normed = np.zeros((11, 5, 7))
        for i in range(11):
            for t in range(5):
                token = tokens[i, layer, t].astype(float)
                normed[i, t] = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
        for d in range(7):
            expected[layer, 0, d] = 1 / max(normed[:, 0, d].std(), 1e-3)
            expected[layer, 1, d] = 1 / normed[:, 1:, d].flatten().std()
    assert (expected[1, 0] == 1000).all()
    found = CachedCrops([tmp_path / str(number) for number in range(3)]).token_scale()
    assert found.shape == (2, 2, 7) and found.numpy() == pytest.approx(expected, rel=1e-4)


def test_frames_of_a_video_are_images_at_their_times(tmp_path):
    video = make_video(tmp_path / "film.mp4", [24, 25], size=(640, 400))
    folder = export_frames(video, tmp_path / "frames", 0.5)
    assert folder.parent == tmp_path / "frames"
    assert list_images(folder) == ["000000.00.jpg", "000000.50.jpg", "000001.00.jpg", "000001.50.jpg", "000002.00.jpg"]
    frames = [Image.open(folder / name) for name in list_images(folder)]
    assert {frame.size for frame in frames} == {(410, 256)}
    assert distance(frames[0], frames[2]) > 3 * distance(frames[0], frames[1])  # another shot from one second on
    written = (folder / "000000.50.jpg").stat().st_mtime_ns
    assert export_frames(video, tmp_path / "frames", 0.5) == folder
    assert (folder / "000000.50.jpg").stat().st_mtime_ns == written
    assert export_frames(video, tmp_path / "frames", 1.0) != folder
    make_video(tmp_path / "film.mp4", [24, 24], seed=1)
    assert export_frames(video, tmp_path / "frames", 0.5) != folder


def test_frames_that_a_killed_run_left_are_made_again(tmp_path):
    video = make_video(tmp_path / "film.mp4", [24])
    folder = export_frames(video, tmp_path / "frames", 0.5)
    aside = folder.rename(folder.with_name(folder.name + ".tmp"))
    (aside / "left.jpg").touch()
    assert export_frames(video, tmp_path / "frames", 0.5) == folder
    assert list_images(folder) == ["000000.00.jpg", "000000.50.jpg"] and not aside.exists()


def test_what_is_not_a_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video" * 50)
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(VideoError, match=f"{tmp_path}/{name}: (not a readable video|the file is empty)"):
            export_frames(tmp_path / name, tmp_path / "frames", 1.0)
    with pytest.raises(OSError, match=r"missing\.mp4"):
        export_frames(tmp_path / "missing.mp4", tmp_path / "frames", 1.0)


def test_sound_alone_is_refused(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(VideoError, match=r"sound\.wav: the file has no video stream"):
        export_frames(tmp_path / "sound.wav", tmp_path / "frames", 1.0)


def test_two_processes_do_not_write_frames_in_one_place(tmp_path):
    video = make_video(tmp_path / "film.mp4", [12])
    with exclusive(tmp_path / "frames"), pytest.raises(StorageError, match="another run is writing here"):
        export_frames(video, tmp_path / "frames", 1.0)
