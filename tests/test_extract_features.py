"""Features of shots against CLIP called image by image; what a film's bytes depend on; what is refused."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection, PreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from data_scripts.extract_features import main
from data_scripts.features.shot_features import ShotFeatures
from modeling_m2s import tiny_model
from modeling_m2s.storage_m2s import FilmDataset, StorageError, exclusive

LENGTHS = {"tt01": 1, "tt02": 16, "tt03": 17, "tt04": 35}  # shots by film; 16 go through the model at a time
BROKEN = {("tt03", 4): b"", ("tt03", 16): b"\xff\xd8\xff half a JPEG", ("tt04", 0): b"GIF89a"}


def jpeg(seed: int) -> bytes:
    """Blobs of color, of awkward sizes."""
    random = np.random.default_rng(seed)
    pixels = Image.fromarray(random.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    file = io.BytesIO()
    pixels.resize(tuple(random.integers(40, 90, 2)), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def film_rows(movie_id: str, num_shots: int, keyframes: int, seed: int = 0) -> list[dict]:
    """Shots of 25 frames, most with `keyframes` keyframes at 3, 9, 15, 21; every sixth has none, some are `BROKEN`."""
    rows = []
    for n in range(num_shots):
        places = [25 * n + 3 + 6 * k for k in range(0 if n % 6 == 5 else keyframes)]
        images = [jpeg(1000 * seed + 31 * place + int(movie_id[2:])) for place in places]
        times = {"start_seconds": float(n), "end_seconds": n + 1.0}
        rows.append({"movie_id": movie_id, "shot_index": n, "start_frame": 25 * n, "end_frame": 25 * (n + 1), **times})
        images = [BROKEN.get((movie_id, n), image) for image in images]
        rows[-1] |= {"keyframe_frames": places, "keyframes": [{"bytes": image, "path": None} for image in images]}
    return rows


def make_shots(
    folder: Path, lengths: dict[str, int] = LENGTHS, keyframes: int = 1, seeds: dict[str, int] | None = None
):
    """A finished `shots` dataset; a film of another seed is another file."""
    shots = FilmDataset(folder, "shots")
    shots.begin({"keyframes_per_shot": keyframes})
    for movie_id, num_shots in lengths.items():
        seed = (seeds or {}).get(movie_id, 0)
        shots.write_film(movie_id, film_rows(movie_id, num_shots, keyframes, seed), {"fingerprint": f"{seed}"})
    shots.finish(lengths, {})


def run(shots: Path, output: Path, *flags: str) -> None:
    main(["--shots", str(shots), "--output", str(output), "--num_workers", "0", *flags])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def image_by_image(
    shots: Path, model: PreTrainedModel, keyframe: int, source: str, vector: str = "image_embeds"
) -> dict[str, np.ndarray]:
    """What the tower says of every shot's keyframe of this number, one call an image; zeros where it is none."""
    processor = CLIPImageProcessorPil.from_pretrained(source)
    expected: dict[str, list[np.ndarray]] = {}
    for row in FilmDataset(shots, "shots").read().to_pylist():
        embeds = torch.zeros(1, model.config.projection_dim if vector == "image_embeds" else model.config.hidden_size)
        if row["keyframes"] and (row["movie_id"], row["shot_index"]) not in BROKEN:
            image = Image.open(io.BytesIO(row["keyframes"][keyframe]["bytes"])).convert("RGB")
            with torch.no_grad():
                embeds = getattr(model(**processor(image, return_tensors="pt")), vector)
        expected.setdefault(row["movie_id"], []).append(embeds[0].numpy())
    return {movie_id: np.stack(embeds) for movie_id, embeds in expected.items()}


def require_equal(found: ShotFeatures, expected: dict[str, np.ndarray]) -> None:
    assert found.movie_ids == list(expected)
    for movie_id, embeds_MD in expected.items():
        scale = np.abs(embeds_MD).max()
        np.testing.assert_allclose(found[movie_id].astype(np.float32), embeds_MD, rtol=2**-10, atol=1e-4 * scale)


@pytest.mark.parametrize(("keyframes", "middle"), [(1, 0), (2, 1), (3, 1), (4, 1)])
def test_features_are_those_of_clip_image_by_image(tmp_path, capsys, keyframes, middle):
    lengths = LENGTHS if keyframes == 1 else {"tt01": 1, "tt03": 17}
    make_shots(tmp_path / "shots", lengths, keyframes)
    run(tmp_path / "shots", tmp_path / "features", "--num_workers", "2")
    found = ShotFeatures(tmp_path / "features", cache=tmp_path / "cache")
    model = CLIPVisionModelWithProjection.from_pretrained(tiny_model()).eval()
    expected = image_by_image(tmp_path / "shots", model, middle, tiny_model())
    require_equal(found, expected)
    assert np.linalg.norm(found["tt01"].astype(np.float32)) > 4  # not normalized

    missing = sum(not row.any() for rows in expected.values() for row in rows)
    shots = sum(lengths.values())
    assert found.record["without_keyframe"] == missing > 0
    assert f"{shots} shots of {len(lengths)} films, {missing} without a keyframe" in capsys.readouterr().out
    assert found.record["inputs"] == {"shots": {"keyframes_per_shot": keyframes}}
    assert FilmDataset(tmp_path / "features", "shot_features").check() == []


def test_scene_encoders_give_the_same_features_as_their_clip(tmp_path, tiny_folder):
    make_shots(tmp_path / "shots", {"tt04": 35})
    run(tmp_path / "shots", tmp_path / "features", "--model", str(tiny_folder))
    found = ShotFeatures(tmp_path / "features", cache=tmp_path / "cache")
    config = json.loads((tiny_folder / "config.json").read_text())
    clip = CLIPVisionConfig(**{**config["vision_config"], "projection_dim": config["projection_dim"]})
    model = CLIPVisionModelWithProjection.from_pretrained(tiny_folder, config=clip).eval()
    require_equal(found, image_by_image(tmp_path / "shots", model, 0, str(tiny_folder)))
    settings = found.record["settings"]
    assert len(settings.pop("revision")) == 16
    expected = {"encoder": tiny_folder.name, "keyframe": "middle", "image_size": 32, "dtype": "float32", "dim": 16}
    assert settings == expected


def test_the_class_token_before_the_projection_is_another_vector(tmp_path, tiny_folder):
    make_shots(tmp_path / "shots", {"tt04": 35})
    flags = ("--model", str(tiny_folder))
    run(tmp_path / "shots", tmp_path / "features", *flags, "--vector", "pooler_output")
    found = ShotFeatures(tmp_path / "features", cache=tmp_path / "cache")
    config = json.loads((tiny_folder / "config.json").read_text())
    clip = CLIPVisionModel.from_pretrained(tiny_folder, config=CLIPVisionConfig(**config["vision_config"])).eval()
    require_equal(found, image_by_image(tmp_path / "shots", clip, 0, str(tiny_folder), "pooler_output"))
    assert found.record["settings"]["vector"] == "pooler_output"
    assert found.dim == found.record["settings"]["dim"] == 32  # the projection has 16
    with pytest.raises(SystemExit, match="dim is 32 there, 16 now; vector is 'pooler_output' there, None now"):
        run(tmp_path / "shots", tmp_path / "features", *flags)
    with pytest.raises(SystemExit, match="--vector: invalid choice: 'class_token'"):
        run(tmp_path / "shots", tmp_path / "features", *flags, "--vector", "class_token")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_bytes_depend_neither_on_workers_nor_on_what_was_done_before(tmp_path, num_workers):
    make_shots(tmp_path / "shots")
    run(tmp_path / "shots", tmp_path / "whole")
    few = {movie_id: LENGTHS[movie_id] for movie_id in ("tt02", "tt04")}
    make_shots(tmp_path / "few", few)
    run(tmp_path / "few", tmp_path / "grown", "--num_workers", str(num_workers))
    make_shots(tmp_path / "few")
    run(tmp_path / "few", tmp_path / "grown", "--num_workers", str(num_workers))
    assert content(tmp_path / "grown") == content(tmp_path / "whole")


def test_stopped_runs_go_on_to_the_same_bytes(tmp_path, monkeypatch):
    make_shots(tmp_path / "shots")
    run(tmp_path / "shots", tmp_path / "whole")
    write_film, written = FilmDataset.write_film, []

    def write_one(dataset, movie_id, rows, facts):
        if written:
            raise StorageError("no space left on device")
        written.append(movie_id)
        write_film(dataset, movie_id, rows, facts)

    monkeypatch.setattr(FilmDataset, "write_film", write_one)
    with pytest.raises(SystemExit, match=r"data_scripts.extract_features: error: no space left on device"):
        run(tmp_path / "shots", tmp_path / "stopped")
    monkeypatch.undo()
    assert list(FilmDataset(tmp_path / "stopped", "shot_features").films()) == written == ["tt01"]
    run(tmp_path / "shots", tmp_path / "stopped")
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_replaced_films_are_done_again_and_removed_films_go(tmp_path, capsys):
    make_shots(tmp_path / "shots")
    run(tmp_path / "shots", tmp_path / "features")
    before = ShotFeatures(tmp_path / "features", cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "shots")
    kept = {movie_id: LENGTHS[movie_id] for movie_id in ("tt01", "tt02", "tt03")}
    make_shots(tmp_path / "shots", kept, seeds={"tt02": 1})
    capsys.readouterr()
    run(tmp_path / "shots", tmp_path / "features")
    assert "(1 films now" in capsys.readouterr().out
    after = ShotFeatures(tmp_path / "features", cache=tmp_path / "cache")
    assert after.movie_ids == list(kept)
    same = [np.array_equal(before[movie_id], after[movie_id]) for movie_id in kept]
    assert same == [True, False, True]


def test_films_whose_shots_were_detected_otherwise_are_done_again(tmp_path, capsys):
    make_shots(tmp_path / "shots", {"tt01": 1, "tt02": 16})
    run(tmp_path / "shots", tmp_path / "features")
    shutil.rmtree(tmp_path / "shots")
    make_shots(tmp_path / "shots", {"tt01": 1, "tt02": 16}, keyframes=3)
    capsys.readouterr()
    run(tmp_path / "shots", tmp_path / "features")
    assert "(2 films now" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fewer_digits_change_features_little(tmp_path, dtype):
    make_shots(tmp_path / "shots", {"tt02": 16})
    run(tmp_path / "shots", tmp_path / "float32")
    run(tmp_path / "shots", tmp_path / dtype, "--dtype", dtype)
    exact, rounded = (ShotFeatures(tmp_path / name, cache=tmp_path / "cache") for name in ("float32", dtype))
    a_MD, b_MD = (features["tt02"].astype(np.float64)[:5] for features in (exact, rounded))
    assert not np.array_equal(a_MD, b_MD)
    cosine_M = (a_MD * b_MD).sum(1) / np.linalg.norm(a_MD, axis=1) / np.linalg.norm(b_MD, axis=1)
    assert cosine_M.min() > 0.99
    with pytest.raises(StorageError, match=f"dtype is '{dtype}' there, 'float32' now"):
        rounded.require_encoder(exact.record["settings"])


def test_films_without_any_keyframe_are_zeros(tmp_path):
    shots = FilmDataset(tmp_path / "shots", "shots")
    shots.begin({})
    shots.write_film("tt07", film_rows("tt07", 18, keyframes=0), {})
    shots.finish(["tt07"], {})
    run(tmp_path / "shots", tmp_path / "features")
    found = ShotFeatures(tmp_path / "features", cache=tmp_path / "cache")
    assert found["tt07"].shape == (18, 512) and not found["tt07"].any()


def test_what_cannot_be_done_ends_in_one_line(tmp_path, tiny_folder):
    unfinished = FilmDataset(tmp_path / "unfinished", "shots")
    unfinished.begin({})
    make_shots(tmp_path / "shots", {"tt01": 1})
    output = tmp_path / "features"
    with pytest.raises(SystemExit, match="unfinished: no finished shots dataset"):
        run(tmp_path / "unfinished", output)
    with pytest.raises(SystemExit, match="error: model /nowhere cannot be loaded"):
        run(tmp_path / "shots", output, "--model", "/nowhere")
    with pytest.raises(SystemExit, match="device=gramophone cannot be used"):
        run(tmp_path / "shots", output, "--device", "gramophone")
    with pytest.raises(SystemExit, match="batch_size=0 must be at least 1"):
        run(tmp_path / "shots", output, "--batch_size", "0")
    run(tmp_path / "shots", output)
    with pytest.raises(SystemExit, match=f"encoder is 'm2s-clip-tiny' there, '{tiny_folder.name}' now"):
        run(tmp_path / "shots", output, "--model", str(tiny_folder))
    with exclusive(output), pytest.raises(SystemExit, match="another run is writing here"):
        run(tmp_path / "shots", output)


def test_infinite_features_are_refused(tmp_path, tiny_folder):
    model = CLIPVisionModelWithProjection.from_pretrained(tiny_model())
    with torch.no_grad():
        model.visual_projection.weight *= 1e6
    model.save_pretrained(tmp_path / "loud")
    shutil.copy(Path(tiny_model()) / "preprocessor_config.json", tmp_path / "loud")
    make_shots(tmp_path / "shots", {"tt02": 16})
    with pytest.raises(SystemExit, match="film tt02, shot 0: the encoder's feature is infinite"):
        run(tmp_path / "shots", tmp_path / "features", "--model", str(tmp_path / "loud"))


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    make_shots(tmp_path / "shots", {"tt01": 1})
    with pytest.raises(SystemExit, match="WORLD_SIZE=2, but this is one of num_processes=1"):
        run(tmp_path / "shots", tmp_path / "features")


@pytest.mark.slow
def test_killed_runs_leave_no_process_and_go_on_to_the_same_bytes(tmp_path):
    lengths = {f"tt{n:02d}": 40 for n in range(12)}
    make_shots(tmp_path / "shots", lengths)
    run(tmp_path / "shots", tmp_path / "whole")
    command = [sys.executable, "-m", "data_scripts.extract_features", "--shots", str(tmp_path / "shots")]
    command += ["--output", str(tmp_path / "killed"), "--num_workers", "2"]
    random, kills = np.random.default_rng(0), 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = len(list((tmp_path / "killed").glob("parts/*.parquet")))
        while process.poll() is None and len(list((tmp_path / "killed").glob("parts/*.parquet"))) == parts:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        for _ in range(1000):
            with contextlib.suppress(StorageError), exclusive(tmp_path / "killed"):
                break  # which its workers would still hold
            time.sleep(0.01)
        else:
            raise AssertionError("the killed run's workers are still there")
    assert kills > 2 and process.returncode == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(tmp_path):
    make_shots(tmp_path / "shots")
    command = ["-m", "data_scripts.extract_features", "--shots", str(tmp_path / "shots"), "--num_workers", "1"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    for output, prefix in (("one", [sys.executable]), ("two", launch)):
        finished = subprocess.run(
            [*prefix, *command, "--output", str(tmp_path / output)], env=environment, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("69 shots of 4 films") == 1
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_frames_that_cannot_be_handed_over_end_the_command(tmp_path):
    """As if /dev/shm were full: no file may be as large as a batch of frames. Finished films are kept."""
    make_shots(tmp_path / "shots")
    command = [sys.executable, "-m", "data_scripts.extract_features", "--shots", tmp_path / "shots"]
    limited = f"ulimit -f 100; exec {shlex.join(map(str, [*command, '--output', tmp_path / 'features']))}"
    ended = subprocess.run(["bash", "-c", f"{limited} --num_workers 2"], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 1, ended.stderr
    assert "extract_features: error: a process that decodes frames cannot hand them over" in ended.stderr
    assert "use a lower num_workers, or 0" in ended.stderr and "Traceback" not in ended.stderr
    run(tmp_path / "shots", tmp_path / "features")
    assert FilmDataset(tmp_path / "features", "shot_features").check() == []
