"""Frames of scenes against the image processor called image by image; stores, worker processes, what is refused."""

import copy
import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from range_server import RangeServer, serve
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil

from data_scripts.readers.scene_frames import SceneFrames
from data_scripts.readers.stored_shots import ParquetShots
from modeling_m2s.frames_m2s import normalize
from modeling_m2s.storage_m2s import FilmDataset, StorageError

SQUARE = {"height": 32, "width": 32}
# Width, height and mode of keyframes: downscaled, upscaled, odd, portrait, as it is, gray, with a palette, a column
IMAGES = [
    (60, 45, "RGB"),
    (17, 13, "RGB"),
    (33, 47, "RGB"),
    (32, 32, "RGB"),
    (41, 39, "L"),
    (50, 38, "P"),
    (1, 9, "RGB"),
]
PROCESSORS = {
    "CLIP": ({"size": {"shortest_edge": 32}, "crop_size": SQUARE}, True),
    "other filter": ({"size": {"shortest_edge": 31}, "crop_size": SQUARE, "resample": 1}, True),
    "crop with borders": ({"size": {"shortest_edge": 9}, "crop_size": {"height": 20, "width": 15}}, True),
    "fixed size": ({"size": {"height": 21, "width": 40}, "do_center_crop": False}, True),
    "crop alone": ({"do_resize": False, "crop_size": {"height": 24, "width": 31}}, True),
    "longest edge": ({"size": {"shortest_edge": 32, "longest_edge": 40}, "crop_size": SQUARE}, False),
}


def encode(width: int, height: int, mode: str = "RGB", seed: int = 0) -> bytes:
    """Noise, as JPEG, or as PNG if it has a palette."""
    pixels = np.random.default_rng([width, height, seed]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG" if mode == "P" else "JPEG", quality=90)
    return file.getvalue()


def write_shots(folder: Path, films: dict[str, list[list[bytes]]], **settings: int) -> Path:
    """A finished `shots` dataset of films, whose shots of 100 frames have these keyframes, 5 frames apart."""
    dataset = FilmDataset(folder, "shots")
    dataset.begin(settings)
    for movie_id, shots in films.items():
        rows = [
            {
                "movie_id": movie_id,
                "shot_index": n,
                "start_frame": 100 * n,
                "end_frame": 100 * (n + 1),
                "start_seconds": float(n),
                "end_seconds": n + 1.0,
                "keyframe_frames": [100 * n + 40 + 5 * place for place in range(len(keyframes))],
                "keyframes": [{"bytes": keyframe, "path": None} for keyframe in keyframes],
            }
            for n, keyframes in enumerate(shots)
        ]
        dataset.write_film(movie_id, rows, {})
    dataset.finish(films, {})
    return folder


def long_film(num_shots: int, seed: int = 0) -> list[list[bytes]]:
    return [[encode(18 + n % 3, 14, seed=1000 * seed + n)] for n in range(num_shots)]


@pytest.fixture(scope="session")
def processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})


@pytest.fixture(scope="session")
def shots(tmp_path_factory) -> Path:
    """Films of 1, 150 and 70 shots: three row groups and a run over the end of one."""
    films = {"tt1": long_film(1, 1), "tt2": long_film(150, 2), "tt3": long_film(70, 3)}
    return write_shots(tmp_path_factory.mktemp("stored") / "shots", films)


def expected_pixels(processor: CLIPImageProcessorPil, images: list[bytes]) -> torch.Tensor:
    """What the processor makes of each image before it rescales."""
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    return torch.cat([processor(Image.open(io.BytesIO(image)), **options)["pixel_values"] for image in images])


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_the_image_processors(tmp_path, name):
    settings, is_fast = PROCESSORS[name]
    processor = CLIPImageProcessorPil(**settings)
    images = [encode(*image) for image in IMAGES]
    write_shots(tmp_path / "shots", {"tt1": [[image] for image in images]})
    frames = SceneFrames(tmp_path / "shots", processor, cache=tmp_path / "cache")
    assert frames._prepare.is_plain == is_fast
    pixels_FCYX, readable_F = frames.read("tt1", 0, len(images))
    expected = expected_pixels(processor, images)
    assert pixels_FCYX.dtype == expected.dtype == torch.uint8 and readable_F.all()
    torch.testing.assert_close(pixels_FCYX, expected, rtol=0, atol=0)


def test_processors_of_other_classes_are_called_themselves(tmp_path, shots):
    class Inverted(CLIPImageProcessorPil):
        def _preprocess(self, images, **kwargs):
            return super()._preprocess([255 - image for image in images], **kwargs)

    processor = Inverted(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    frames = SceneFrames(shots, processor, cache=tmp_path / "cache")
    torch.testing.assert_close(frames.read("tt2", 0, 9).pixels_FCYX, expected_pixels(processor, film_images(2, 0, 9)))


def test_frames_without_a_common_size_are_refused(tmp_path):
    write_shots(tmp_path / "shots", {"tt1": [[encode(20, 10)], [encode(20, 10)], [encode(10, 20)], [b""]]})
    processor = CLIPImageProcessorPil(size={"shortest_edge": 12}, do_center_crop=False)
    frames = SceneFrames(tmp_path / "shots", processor, arrow_copy=False)
    assert frames.read("tt1", 0, 2).pixels_FCYX.shape == (2, 3, 12, 24)
    assert frames.read("tt1", 2, 2).pixels_FCYX.shape == (2, 3, 24, 12)
    with pytest.raises(ValueError, match="film tt1, shots 1 to 2: the image processor leaves frames of 2 sizes"):
        frames.read("tt1", 1, 2)


@pytest.mark.parametrize("changes", [{}, {"do_normalize": False}, {"do_rescale": False, "image_mean": [3, 200, 9]}])
def test_normalizing_on_the_device_is_the_image_processors(changes):
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, **changes)
    pixels = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).to(torch.uint8)
    before = pixels.clone()
    expected = processor(list(pixels), return_tensors="pt")["pixel_values"]
    found = normalize(pixels, processor)
    assert found.dtype == torch.float32 and torch.equal(pixels, before)
    torch.testing.assert_close(found, expected.float(), rtol=3e-7, atol=3e-7)
    assert torch.equal(normalize(pixels[None, :, None], processor)[0, :, 0], found)


@pytest.mark.parametrize(
    ("first", "end", "frames", "chosen"),
    [(0, 10, [4], 0), (0, 10, [4, 5], 0), (0, 11, [4, 5, 6], 1), (100, 110, [101, 106], 1), (100, 110, [102, 107], 0)],
)
def test_the_middle_keyframe_is_the_nearest_and_of_two_the_earlier(tmp_path, processor, first, end, frames, chosen):
    images = [encode(12, 12, seed=frame) for frame in frames]
    dataset = FilmDataset(tmp_path / "shots", "shots")
    dataset.begin({})
    row = {"movie_id": "tt1", "shot_index": 0, "start_frame": first, "end_frame": end, "keyframe_frames": frames}
    row |= {"start_seconds": 0.0, "end_seconds": 1.0, "keyframes": [{"bytes": image} for image in images]}
    dataset.write_film("tt1", [row], {})
    dataset.finish(["tt1"], {})
    read = SceneFrames(tmp_path / "shots", processor, arrow_copy=False).read("tt1", 0, 1)
    assert torch.equal(read.pixels_FCYX, expected_pixels(processor, [images[chosen]]))


@pytest.mark.parametrize(
    ("frames_per_shot", "places"),
    [
        (1, [(1,), (0,), (2,)]),  # the shots' middles are at frame 49.5, keyframes at 40, 45, 50, 55, 60
        (2, [(0, 2), (0, 0), (1, 3)]),
        (3, [(0, 1, 2), (0, 0, 0), (0, 2, 4)]),
        (5, [(0, 0, 1, 2, 2), (0, 0, 0, 0, 0), (0, 1, 2, 3, 4)]),
    ],
)
def test_several_frames_a_shot_are_evenly_chosen_and_in_order(tmp_path, processor, frames_per_shot, places):
    stored = [[encode(14, 12, seed=10 * n + place) for place in range(count)] for n, count in enumerate((3, 1, 5))]
    places = [(2,), *places[1:]] if frames_per_shot == 1 else places
    write_shots(tmp_path / "shots", {"tt1": stored}, keyframes_per_shot=5)
    frames = SceneFrames(tmp_path / "shots", processor, frames_per_shot, cache=tmp_path / "cache")
    images = [stored[shot][place] for shot, chosen in enumerate(places) for place in chosen]
    assert torch.equal(frames.read("tt1", 0, 3).pixels_FCYX, expected_pixels(processor, images))


def test_more_frames_a_shot_than_are_stored_are_refused(tmp_path, processor):
    write_shots(tmp_path / "shots", {"tt1": long_film(1)}, keyframes_per_shot=1)
    with pytest.raises(StorageError, match="frames_per_shot=2, but at most 1 keyframes a shot are stored"):
        SceneFrames(tmp_path / "shots", processor, 2, arrow_copy=False)
    with pytest.raises(ValueError, match="frames_per_shot=0 must be at least 1"):
        SceneFrames(tmp_path / "shots", processor, 0)


def test_keyframes_that_do_not_decode_are_zeros(tmp_path, processor):
    good = encode(40, 30)
    shots = [[good], [], [b""], [good[: len(good) // 2]], [b"GIF89a"], [b"\xff\xd8\xff half"], [good]]
    write_shots(tmp_path / "shots", {"tt1": shots, "tt2": [[]]})
    frames = SceneFrames(tmp_path / "shots", processor, frames_per_shot=2, cache=tmp_path / "cache")
    pixels_FCYX, readable_F = frames.read("tt1", 0, 7)
    assert readable_F.tolist() == [True] * 2 + [False] * 10 + [True] * 2
    expected = expected_pixels(processor, [good])[0]
    assert all(torch.equal(pixels_FCYX[place], expected) for place in (0, 1, 12, 13))
    assert not pixels_FCYX[2:12].any()
    pixels_FCYX, readable_F = frames.read("tt2", 0, 1)
    assert pixels_FCYX.shape == (2, 3, 12, 12) and not readable_F.any()


@pytest.mark.parametrize("arrow_copy", [True, False])
def test_shots_that_are_not_there_are_refused(shots, processor, tmp_path, arrow_copy):
    frames = SceneFrames(shots, processor, cache=tmp_path, arrow_copy=arrow_copy)
    assert frames.movie_ids == ["tt1", "tt2", "tt3"]
    assert frames.num_shots == {"tt1": 1, "tt2": 150, "tt3": 70}
    assert frames.record == FilmDataset(shots, "shots").record
    assert frames.read("tt3", 70, 0).pixels_FCYX.shape == (0, 3, 12, 12)
    with pytest.raises(StorageError, match="shots 62 to 70 of film tt3 are asked for, but it has 70 shots"):
        frames.read("tt3", 62, 9)
    with pytest.raises(StorageError, match="shots -1 to 7 of film tt3 are asked for, but it has 70 shots"):
        frames.read("tt3", -1, 9)
    with pytest.raises(StorageError, match="shots 0 to 8 of film tt9 are asked for, but no such film is there"):
        frames.read("tt9", 0, 9)


@pytest.mark.parametrize("arrow_copy", [True, False])
@pytest.mark.parametrize("name", ["run[2]", "a*b", "x?y"])
def test_names_of_folders_are_no_patterns(name, arrow_copy, tmp_path, processor):
    for folder, seed in (("run2", 1), ("axb", 1), (name, 0)):
        write_shots(tmp_path / folder / "shots", {"tt1": long_film(3, seed)}, keyframes_per_shot=1)
    frames = SceneFrames(tmp_path / name / "shots", processor, cache=tmp_path / "cache", arrow_copy=arrow_copy)
    expected = expected_pixels(processor, [shot[0] for shot in long_film(3, 0)])
    assert torch.equal(frames.read("tt1", 0, 3).pixels_FCYX, expected)


def film_images(film: int, first: int, num_shots: int) -> list[bytes]:
    return [keyframe for (keyframe,) in long_film(150, film)[first : first + num_shots]]


def require_equal(frames: SceneFrames, processor: CLIPImageProcessorPil) -> None:
    """Runs at the ends of films and of row groups, in no order."""
    for film, first, num_shots in ((2, 141, 9), (1, 0, 1), (2, 60, 9), (3, 61, 9), (2, 0, 150), (3, 0, 9)):
        pixels_FCYX, readable_F = frames.read(f"tt{film}", first, num_shots)
        assert readable_F.all()
        assert torch.equal(pixels_FCYX, expected_pixels(processor, film_images(film, first, num_shots)))


def test_the_arrow_copy_is_announced_and_made_once(shots, processor, tmp_path, capsys):
    require_equal(SceneFrames(shots, processor, cache=tmp_path), processor)
    megabytes = sum(path.stat().st_size for path in shots.glob("data/*")) / 1e6
    assert f"{shots}: an Arrow copy of {megabytes:.1f} MB goes to {tmp_path}" in capsys.readouterr().out
    require_equal(SceneFrames(str(shots), processor, cache=tmp_path), processor)
    assert capsys.readouterr().out == ""


def test_local_folders_are_read_without_a_copy(shots, processor):
    require_equal(SceneFrames(shots, processor, arrow_copy=False), processor)


@pytest.fixture
def in_memory(shots) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.put(str(shots), "/catalog/shots", recursive=True)
    yield "memory://catalog/shots"
    memory.rm("/catalog", recursive=True)


def test_object_stores_give_the_same(in_memory, processor):
    frames = SceneFrames(in_memory, processor)
    require_equal(frames, processor)
    with pytest.raises(StorageError, match="memory://catalog/shots: shots 0 to 8 of film tt9"):
        frames.read("tt9", 0, 9)


@pytest.fixture
def served(shots) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    with serve(shots.parent) as address:
        yield f"{address}/shots"


def test_only_the_row_groups_that_hold_the_shots_are_fetched(served, shots, processor):
    frames = SceneFrames(served, processor)
    require_equal(frames, processor)
    metadata = pq.read_metadata(shots / "data" / "train-00000.parquet")
    sizes = [
        sum(metadata.row_group(group).column(column).total_compressed_size for column in range(metadata.num_columns))
        for group in range(metadata.num_row_groups)
    ]
    assert [metadata.row_group(group).num_rows for group in range(len(sizes))] == [1, 64, 64, 22, 64, 6]
    RangeServer.fetched.clear()
    frames.read("tt2", 70, 9)
    frames.read("tt2", 90, 9)  # in the same row group, which is kept
    assert 0 < sum(length for _, length in RangeServer.fetched) <= sizes[2]


class Scenes(torch.utils.data.Dataset):
    """Scenes in a data loader's workers."""

    PLACES = [("tt2", 141), ("tt3", 5), ("tt2", 60), ("tt3", 61)]

    def __init__(self, frames: SceneFrames):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.PLACES)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.frames.read(*self.PLACES[index], 9).pixels_FCYX


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["copy", "served"])
def test_worker_processes_open_files_for_themselves(served, shots, processor, tmp_path, start, form):
    frames = SceneFrames(shots if form == "copy" else served, processor, cache=tmp_path)
    expected = list(Scenes(frames))  # files are open here before the workers start
    found = list(DataLoader(Scenes(frames), batch_size=None, num_workers=2, multiprocessing_context=start))
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)
    sent = pickle.dumps(frames)  # as to a spawned process
    assert len(sent) < 4000 and all(map(torch.equal, Scenes(copy.deepcopy(frames)), expected))


def damaged(folder: Path, kind: str) -> Path:
    """Two shards, the second of which is damaged."""
    write_shots(folder, {f"tt{n:02d}": long_film(2, n) for n in range(17)})
    shard = folder / "data" / "train-00001.parquet"
    content = shard.read_bytes()
    if kind == "missing":
        shard.unlink()
    elif kind == "cut":
        shard.write_bytes(content[:-100])
    elif kind == "empty":
        shard.write_bytes(b"")
    else:
        pages = sum(pq.read_metadata(shard).row_group(0).column(place).total_compressed_size for place in range(8))
        shard.write_bytes(content[:4] + bytes(pages) + content[4 + pages :])
    return shard


@pytest.mark.parametrize("arrow_copy", [True, False])
@pytest.mark.parametrize("kind", ["missing", "cut", "empty"])
def test_shards_that_are_missing_or_cut_are_named(tmp_path, processor, kind, arrow_copy):
    shard = damaged(tmp_path / "shots", kind)
    message = "is missing, but m2s.json names it" if kind == "missing" else "cannot be read"
    with pytest.raises(StorageError, match=f"{shard}: {message}"):
        SceneFrames(tmp_path / "shots", processor, cache=tmp_path / "cache", arrow_copy=arrow_copy)


def test_shards_with_zeros_in_the_middle_are_named(tmp_path, processor):
    shard = damaged(tmp_path / "shots", "zeros")
    with pytest.raises(StorageError, match=f"{shard}: cannot be read"):
        SceneFrames(tmp_path / "shots", processor, cache=tmp_path / "cache")
    frames = SceneFrames(tmp_path / "shots", processor, arrow_copy=False)
    frames.read("tt15", 0, 2)
    with pytest.raises(StorageError, match=f"{shard}: cannot be read"):
        frames.read("tt16", 0, 2)


def test_shards_that_the_record_does_not_name_are_refused(tmp_path, processor):
    folder = write_shots(tmp_path / "shots", {"tt1": long_film(2)})
    shutil.copy(folder / "data" / "train-00000.parquet", folder / "data" / "train-00001.parquet")
    with pytest.raises(StorageError, match=r"data/train-00001\.parquet: m2s\.json does not name this shard"):
        SceneFrames(folder, processor, cache=tmp_path / "cache")


def test_folders_and_urls_without_finished_shots_are_refused(tmp_path, processor, served):
    with pytest.raises(StorageError, match="no finished shots dataset; run python -m data_scripts"):
        SceneFrames(tmp_path / "nothing", processor)
    with pytest.raises(StorageError, match=r"memory://nothing/m2s.json: cannot be read \(FileNotFoundError"):
        SceneFrames("memory://nothing", processor)
    with pytest.raises(StorageError, match=r"nothing/m2s.json: cannot be read \(FileNotFoundError"):
        SceneFrames(served.replace("shots", "nothing"), processor)
    fsspec.filesystem("memory").pipe("/other/m2s.json", b'{"dataset": "scene_pairs", "complete": true}')
    with pytest.raises(StorageError, match="memory://other: no finished shots dataset"):
        ParquetShots("memory://other")
