"""The pipeline from film to scene embeddings, against the model called by hand on one scene at a time."""

import functools
import io
import subprocess
import sys
from types import SimpleNamespace

import av
import datasets
import numpy as np
import pytest
import torch
from make_videos import damage, make_video, truncate
from PIL import Image
from range_server import serve
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    pipeline,
)

from m2s.main import main as m2s
from modeling_m2s import M2SSceneModel, M2SSceneProcessor, SceneEmbeddingPipeline
from modeling_m2s.pipeline_m2s import scene_windows
from modeling_m2s.shots_m2s import Film, Shot, ShotSettings, detect_shots
from modeling_m2s.storage_m2s import FilmDataset
from modeling_m2s.video_m2s import VideoError

TOWER = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}
TEXT_TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def embed(tiny_folder) -> SceneEmbeddingPipeline:
    """The pipeline of the tiny scene encoder, which reads the shots of a scene jointly."""
    return pipeline("scene-embedding", model=str(tiny_folder), scene_vector="joint")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (37, 51, 3), dtype=np.uint8))


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "JPEG")
    return buffer.getvalue()


def make_film(keyframes_per_shot: list[int], seed: int = 0) -> Film:
    """A film of shots of growing length with so many keyframes each, all different."""
    ends = np.cumsum([20 + shot for shot in range(len(keyframes_per_shot))]).tolist()
    shots = [
        Shot(
            shot_index=shot,
            start_frame=end - 20 - shot,
            end_frame=end,
            start_seconds=(end - 20 - shot) / 25,
            end_seconds=end / 25,
            keyframe_frames=list(range(end - number, end)),
            keyframes=[jpeg(1000 * seed + 100 * shot + i) for i in range(number)],
        )
        for shot, (end, number) in enumerate(zip(ends, keyframes_per_shot, strict=True))
    ]
    return Film(shots, num_frames=ends[-1], frame_rate=25.0, duration_seconds=ends[-1] / 25, width=51, height=37)


@functools.cache
def load(folder) -> tuple[M2SSceneModel, M2SSceneProcessor]:
    """The model and the processor of a folder."""
    return M2SSceneModel.from_pretrained(folder).eval(), M2SSceneProcessor.from_pretrained(folder)


def scenes_by_hand(folder, film: Film, windows: list[tuple[int, int]]) -> list[dict]:
    """What the pipeline should return for these windows: the model on the processor's output, scene by scene."""
    model, processor = load(folder)
    scenes = []
    for first, num_shots in windows:
        shots = film.shots[first : first + num_shots]
        frames = [Image.open(io.BytesIO(keyframe)).convert("RGB") for shot in shots for keyframe in shot.keyframes]
        with torch.no_grad():
            embedding = model(**processor([frames])).pooler_output[0].numpy()
        times = {"start_seconds": shots[0].start_seconds, "end_seconds": shots[-1].end_seconds}
        scenes.append({"first_shot": first, "num_shots": num_shots, **times, "embedding": embedding})
    return scenes


def assert_same_scenes(found: list[dict], expected: list[dict], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for scene, expected_scene in zip(found, expected, strict=True):
        assert scene.keys() == expected_scene.keys()
        for key in scene.keys() - {"embedding"}:
            assert scene[key] == expected_scene[key]
        assert scene["embedding"].dtype == np.float32
        np.testing.assert_allclose(
            scene["embedding"], expected_scene["embedding"], rtol=tolerance, atol=tolerance, strict=True
        )


def windows_by_hand(num_shots: int, shots_per_scene: int, stride: int) -> list[tuple[int, int]]:
    """Lay windows, one every stride, until each shot has been in one."""
    windows, first, uncovered = [], 0, set(range(num_shots))
    while uncovered:
        shots = [shot for shot in range(first, first + shots_per_scene) if shot < num_shots]
        windows.append((shots[0], len(shots)))
        uncovered -= set(shots)
        first += stride
    return windows


@pytest.mark.parametrize("shots_per_scene", [1, 2, 3, 7, 9, 50])
def test_windows_equal_a_written_out_loop(shots_per_scene):
    for num_shots in range(47):
        for stride in range(1, shots_per_scene + 1):
            expected = windows_by_hand(num_shots, shots_per_scene, stride)
            assert scene_windows(num_shots, shots_per_scene, stride) == expected
        assert scene_windows(num_shots, shots_per_scene) == expected


def test_windows_by_default_are_the_papers():
    assert scene_windows(20) == [(0, 9), (9, 9), (18, 2)]


@pytest.mark.parametrize(("shots_per_scene", "stride"), [(9, 0), (9, -1), (9, 10), (1, 2), (0, None), (-3, None)])
def test_windows_that_make_no_sense_are_refused(shots_per_scene, stride, embed):
    with pytest.raises(ValueError, match=f"shots_per_scene={shots_per_scene}"):
        scene_windows(20, shots_per_scene, stride)
    with pytest.raises(ValueError, match=f"shots_per_scene={shots_per_scene}"):
        embed(make_film([1, 1]), shots_per_scene=shots_per_scene, stride=stride)


@pytest.mark.parametrize("scenes_per_batch", [1, 2, 4, None])
@pytest.mark.parametrize(
    ("keyframes_per_shot", "shots_per_scene", "stride"),
    [
        ([1] * 20, 9, None),  # the last scene is shorter
        ([1] * 13, 3, 2),  # five and more in a batch
        ([3] * 7, 2, None),
        ([1, 3, 2, 2, 1, 1, 4, 1, 1], 2, 1),
        ([2], 9, None),
    ],
)
def test_scenes_equal_the_model_by_hand(
    embed, tiny_folder, keyframes_per_shot, shots_per_scene, stride, scenes_per_batch
):
    film = make_film(keyframes_per_shot)
    found = embed(film, shots_per_scene=shots_per_scene, stride=stride, scenes_per_batch=scenes_per_batch)
    windows = windows_by_hand(len(keyframes_per_shot), shots_per_scene, stride or shots_per_scene)
    assert_same_scenes(found, scenes_by_hand(tiny_folder, film, windows))


@pytest.mark.parametrize(
    ("keyframes_per_shot", "scenes_per_batch", "shapes"),
    [
        ([1] * 13, 4, [(4, 3), (2, 3)]),
        ([1] * 13, 1, [(1, 3)] * 6),
        ([2, 2, 2, 2, 2, 1, 1], 2, [(2, 6), (1, 4)]),
        ([1, 0, 0, 0, 0, 1, 1], 4, [(1, 1), (1, 2)]),
    ],
)
def test_batches_are_of_equal_scenes_and_never_too_large(embed, keyframes_per_shot, scenes_per_batch, shapes):
    """Scenes of three shots, one every two, reach the model as (scenes, frames)."""
    seen = []
    hook = embed.model.register_forward_pre_hook(
        lambda model, _, inputs: seen.append(tuple(inputs["pixel_values"].shape[:2])), with_kwargs=True
    )
    with hook:
        embed(make_film(keyframes_per_shot), shots_per_scene=3, stride=2, scenes_per_batch=scenes_per_batch)
    assert seen == shapes


def test_shots_without_keyframes_are_skipped(embed, tiny_folder):
    """They stay counted; a scene without any keyframe is left out."""
    film = make_film([0, 1, 2, 0, 0, 0, 1, 0, 1, 1, 0])
    assert_same_scenes(embed(film, shots_per_scene=3), scenes_by_hand(tiny_folder, film, [(0, 3), (6, 3), (9, 2)]))


@pytest.mark.parametrize("keyframes_per_shot", [[0], [0] * 11])
@pytest.mark.parametrize("scene_vector", ["joint", "mean"])
def test_films_without_any_keyframe_are_refused(embed, keyframes_per_shot, scene_vector):
    with pytest.raises(ValueError, match=f"none of .*{len(keyframes_per_shot)} shots has a keyframe"):
        embed(make_film(keyframes_per_shot), scene_vector=scene_vector)


@pytest.mark.parametrize("scenes_per_batch", [1, 3, None])
@pytest.mark.parametrize(
    ("keyframes_per_shot", "shots_per_scene", "stride"),
    [([1] * 20, 9, None), ([1, 3, 2, 2, 1, 1, 4, 1, 1], 2, 1), ([0, 1, 2, 0, 0, 0, 1, 0, 1, 1, 0], 3, 2), ([2], 9, 4)],
)
def test_means_are_those_of_single_shots(
    embed, tiny_folder, keyframes_per_shot, shots_per_scene, stride, scenes_per_batch
):
    """The keyframes of a shot are read jointly; shots without any do not count."""
    film = make_film(keyframes_per_shot)
    options = {"shots_per_scene": shots_per_scene, "stride": stride, "scene_vector": "mean"}
    found = embed(film, **options, scenes_per_batch=scenes_per_batch)
    singles = [
        scenes_by_hand(tiny_folder, film, [(shot, 1)])[0]["embedding"] if count else None
        for shot, count in enumerate(keyframes_per_shot)
    ]
    expected = []
    for first, num_shots in windows_by_hand(len(keyframes_per_shot), shots_per_scene, stride or shots_per_scene):
        read = [vector for vector in singles[first : first + num_shots] if vector is not None]
        if read:
            shots = film.shots[first : first + num_shots]
            times = {"start_seconds": shots[0].start_seconds, "end_seconds": shots[-1].end_seconds}
            scene = {"first_shot": first, "num_shots": num_shots, **times}
            expected.append({**scene, "embedding": np.mean(read, axis=0, dtype=np.float32)})
    assert_same_scenes(found, expected)
    assert_same_scenes(list(embed.iterate(film, **options)), found)


def test_an_encoder_that_was_not_trained_on_scenes_gives_means(tiny_folder, video, tmp_path):
    """As `m2s embed` does."""
    embed = pipeline("scene-embedding", model=str(tiny_folder))
    found = embed(str(video), shots_per_scene=2)
    assert_same_scenes(found, embed(str(video), shots_per_scene=2, scene_vector="mean"), tolerance=0)
    options = ["--model", str(tiny_folder), "--shots-per-scene", "2", "--output", str(tmp_path / "index")]
    assert m2s(["embed", str(video), *options]) == 0
    stored = FilmDataset(tmp_path / "index/scene_embeddings", "scene_embeddings").read().to_pylist()
    for scene, row in zip(found, stored, strict=True):
        assert row["first_shot"] == scene["first_shot"]
        np.testing.assert_allclose(row["embedding"], scene["embedding"], rtol=1e-2, atol=1e-2)  # stored as float16
    embed.model.config.trained_on_scenes = True
    assert_same_scenes(embed(str(video)), embed(str(video), scene_vector="joint"), tolerance=0)
    with pytest.raises(ValueError, match="scene_vector is 'sum'; it must be 'joint' or 'mean'"):
        embed(str(video), scene_vector="sum")


def test_lists_of_films_give_what_each_gives_alone(embed):
    films = [make_film([1] * length, seed) for seed, length in enumerate((5, 1, 12))]
    together = embed(films, shots_per_scene=4)
    assert [len(scenes) for scenes in together] == [2, 1, 3]
    for film, scenes in zip(films, together, strict=True):
        assert_same_scenes(scenes, embed(film, shots_per_scene=4), tolerance=0)


def test_a_generator_of_films_is_read_one_by_one(embed):
    films, read = [make_film([1] * 7), make_film([2] * 4)], []

    def generate():
        for film in films:
            read.append(film)
            yield film

    scenes = embed(generate(), shots_per_scene=3)
    assert read == films[:1]  # transformers looks at the first
    for film, found in zip(films, scenes, strict=True):
        assert_same_scenes(found, embed(film, shots_per_scene=3))
    assert read == films


def test_a_saved_pipeline_is_the_same(embed, tmp_path):
    film = make_film([1] * 7)
    embed.save_pretrained(tmp_path)
    again = pipeline("scene-embedding", model=str(tmp_path), scene_vector="joint")
    assert again.image_processor.to_dict() == embed.image_processor.to_dict()
    assert_same_scenes(again(film, shots_per_scene=3), embed(film, shots_per_scene=3))


def test_settings_of_a_call_are_checked(embed):
    assert embed([]) == []
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"scenes_per_batch is {number}; it must be at least 1"):
            embed(make_film([1] * 3), scenes_per_batch=number)


def test_scenes_come_as_they_are_computed(embed):
    """The first batches are there before the keyframes of the last, which are broken, are looked at."""
    film = make_film([1] * 12)
    options = {"shots_per_scene": 3, "stride": 2, "scenes_per_batch": 2}
    complete = embed(film, **options)
    assert_same_scenes(list(embed.iterate(film, **options)), complete, tolerance=0)
    film.shots[-1].keyframes = [jpeg(0)[:30]]
    scenes = embed.iterate(film, **options)
    assert_same_scenes([next(scenes) for _ in range(5)], complete[:5], tolerance=0)
    with pytest.raises(OSError):
        next(scenes)


def test_still_images_are_scenes_of_one_frame(embed, tiny_folder):
    images = [picture(seed) for seed in range(5)]
    model, processor = load(tiny_folder)
    with torch.no_grad():
        expected = [model(**processor([[image]])).pooler_output[0].numpy() for image in images]
    np.testing.assert_allclose(embed.embed_images(images), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video file of five shots."""
    return make_video(tmp_path_factory.mktemp("video") / "film.mp4", [17, 30, 24, 41, 16])


def test_a_file_gives_what_its_film_gives(embed, video):
    settings = ShotSettings(detector="content", keyframes_per_shot=2)
    film = detect_shots(video, settings)
    assert len(film.shots) == 5
    expected = embed(film, shots_per_scene=2)
    for path in (video, str(video)):
        assert_same_scenes(embed(path, shots_per_scene=2, shot_settings=settings), expected, tolerance=0)
    assert_same_scenes(embed([str(video), film], shots_per_scene=2, shot_settings=settings)[0], expected, tolerance=0)
    as_table = {"detector": "content", "keyframes_per_shot": 2}
    assert_same_scenes(embed(str(video), shots_per_scene=2, shot_settings=as_table), expected, tolerance=0)
    assert_same_scenes(embed(video, shots_per_scene=2), embed(detect_shots(video), shots_per_scene=2), tolerance=0)


def test_files_that_are_no_video_are_refused(embed, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    for name in ("notes.mp4", "missing.mp4"):
        with pytest.raises(VideoError, match=name):
            embed(str(tmp_path / name))


def test_a_film_with_a_hole_is_read_and_one_with_a_large_hole_is_not(embed, tmp_path, caplog):
    path = damage(make_video(tmp_path / "film.mp4", [300, 300]), 0.5, 3000)
    assert embed(str(path)) and f"{path}: damaged: 0." in caplog.text
    cut = truncate(make_video(tmp_path / "cut.mkv", [300, 300]), 0.6)
    with pytest.raises(VideoError, match="cannot be read"):
        embed(str(cut))


class Decoder:
    """Used as torchcodec's VideoDecoder is; its frames are those that PyAV reads of a file."""

    def __init__(self, path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        self.frames = torch.stack(frames).permute(0, 3, 1, 2)
        self.metadata = SimpleNamespace(num_frames=len(frames), average_fps=float(stream.average_rate))

    def get_frames_at(self, indices):
        return SimpleNamespace(data=self.frames[indices])


def test_what_holds_a_file_gives_what_its_path_gives(embed, video):
    content, name = video.read_bytes(), str(video)
    expected = embed(name, shots_per_scene=2)
    with serve(video.parent) as address:
        url = f"{address}/{video.name}"
        remembered = SimpleNamespace(_hf_encoded={"path": name, "bytes": None})
        rows = [{"path": None, "bytes": content}, {"path": name, "bytes": None}, {"path": "gone.mp4", "bytes": content}]
        for given in (url, {"path": url, "bytes": None}, content, bytearray(content), *rows, remembered):
            assert_same_scenes(embed(given, shots_per_scene=2), expected, tolerance=0)
        together = embed([url, content, rows[0], name], shots_per_scene=2)
    for scenes in together:
        assert_same_scenes(scenes, expected, tolerance=0)


def test_rows_of_datasets_are_films(embed, video):
    rows = datasets.Dataset.from_dict({"video": [str(video)]}).cast_column("video", datasets.Video(decode=False))
    assert_same_scenes(embed(rows[0]["video"]), embed(video), tolerance=0)


def test_a_decoder_gives_what_its_frames_give(embed, video):
    found = embed(Decoder(video), shots_per_scene=2)
    assert len(found) == 3
    assert_same_scenes(found, embed(video, shots_per_scene=2), tolerance=0)


def test_what_cannot_be_read_is_named(embed, video, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with serve(tmp_path) as address:
        for name, reason in (("missing.mp4", "cannot be downloaded .*404"), ("notes.mp4", "not a readable video")):
            with pytest.raises(VideoError, match=f"^{address}/{name}: {reason}"):
                embed(f"{address}/{name}")
    with pytest.raises(VideoError, match=f"^{address}/notes.mp4: cannot be downloaded"):  # the server is gone
        embed(f"{address}/notes.mp4")
    no_length = Decoder(video)
    no_length.metadata.num_frames = None
    for given, message in (
        (b"no video", "^video in bytes: not a readable video"),
        (b"", "^video in bytes: the file is empty"),
        ({"path": "clip.mp4", "bytes": b"no video"}, "^clip.mp4: not a readable video"),
        ({"path": None, "bytes": None}, "neither bytes nor a path"),
        ({}, "neither bytes nor a path"),
        (no_length, "^Decoder: its metadata has no number of frames"),
    ):
        with pytest.raises(VideoError, match=message):
            embed(given)
    for given in (7, object()):
        with pytest.raises(TypeError, match=f"{type(given).__name__} is no video; a video is a path"):
            embed(given)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_embeddings_are_float32_whatever_the_model_computes_in(tiny_folder, dtype):
    film = make_film([1] * 5)
    low = pipeline("scene-embedding", model=str(tiny_folder), dtype=dtype, scene_vector="joint")
    assert low.model.dtype == getattr(torch, dtype)
    tolerance = {"bfloat16": 0.1, "float32": 1e-5}[dtype]
    assert_same_scenes(low(film), scenes_by_hand(tiny_folder, film, [(0, 5)]), tolerance)


def save_clip(model_class, folder) -> torch.nn.Module:
    """A random CLIP of this class with its image processor."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**TOWER, projection_dim=20)
    text = {**TEXT_TOWER, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    is_whole = model_class is CLIPModel
    config = CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=20) if is_whole else vision
    model = model_class(config).eval()
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_class", [CLIPModel, CLIPVisionModelWithProjection, CLIPVisionModel])
def test_clip_folders_have_the_pipeline(model_class, tmp_path):
    """Scenes of one frame are what CLIP's image tower gives; longer ones what the scene encoder gives."""
    clip = save_clip(model_class, tmp_path)
    embed = pipeline("scene-embedding", model=str(tmp_path), scene_vector="joint")
    film = make_film([1] * 7)
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    images = [Image.open(io.BytesIO(shot.keyframes[0])) for shot in film.shots]
    with torch.no_grad():
        pixel_values = processor(images, return_tensors="pt").pixel_values
        expected = getattr(clip, "vision_model", clip)(pixel_values).pooler_output.numpy()
    found = np.stack([scene["embedding"] for scene in embed(film, shots_per_scene=1)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert_same_scenes(embed(film, shots_per_scene=3), scenes_by_hand(tmp_path, film, [(0, 3), (3, 3), (6, 1)]))


def test_importing_the_package_registers_the_pipeline(tiny_folder):
    script = """
import sys
import modeling_m2s
from transformers import pipeline
print(type(pipeline("scene-embedding", model=sys.argv[1])).__name__)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, tiny_folder], check=True, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "SceneEmbeddingPipeline"
