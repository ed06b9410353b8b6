"""The benchmarks of contrastive training run, at sizes of seconds, and say what they promise."""

import json
from pathlib import Path

import pytest

from benchmarks import moco, moco_gpu


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def result(folder: Path) -> dict:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_ours_and_a_plain_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(moco, "memory_of", lambda name, options: {})  # starts a process for each candidate
    moco.main(["--batch-size", "2", "--steps", "1", "--runs", "1", "--results", str(tmp_path / "results")])
    found = result(tmp_path / "results")
    losses = found["loss_of_the_first_batch_in_float32"]
    assert {moco.OURS, moco.FUSED, moco.PLAIN} <= losses.keys()
    assert list(losses.values()) == pytest.approx([losses[moco.OURS]] * len(losses), abs=2e-5)
    for row in found["figures"].values():
        assert row["pairs_per_second"]["median"] > 0 and row["pairs_per_processor_second"]["min"] > 0
        assert 0 <= row["data_wait"]["min"] <= row["data_wait"]["max"] < 1
    for costs in found["five_largest_costs"].values():
        assert len(costs) == 5 and list(costs.values()) == sorted(costs.values(), reverse=True)
        assert sum(costs.values()) <= 1


def test_another_loss_of_a_rival_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(moco, "info_nce", lambda first, second: 1.01 * (first @ second.T).logsumexp(1).mean())
    with pytest.raises(AssertionError, match="not close"):
        moco.main(["--batch-size", "2", "--steps", "1", "--runs", "1", "--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_the_gpu_script_without_a_gpu(tmp_path):
    moco_gpu.main(["--device", "cpu", "--parts", "speed", "data", "--results", str(tmp_path)])
    found = result(tmp_path)
    rows = {(row["kernel"], row["compiled"], row["patch_dropout"]): row for row in found["speed"]["rows"]}
    assert len(rows) == len(moco_gpu.VARIANTS)
    assert all(row["pairs_per_second"] > 0 for row in rows.values())
    assert len(rows["cudnn", False, 0.0]["five_largest_costs"]) == 5
    for dropout, tokens in ((0.0, 9 * 4 + 1), (0.5, 9 * 2 + 1)):
        layers = 2 * (8 * tokens * 32**2 + 4 * tokens * 32 * 64 + 4 * tokens**2 * 32)
        embedding = 2 * (9 * 4) * 32 * (3 * 16**2)  # no gradient of pixels: three times, where layers count four
        counted = rows["cudnn", False, dropout]["megaflop_per_pair"]
        assert counted == pytest.approx((4 * layers + 3 * embedding) / 1e6, abs=1e-3)
    kernels = found["speed"]["losses"]
    assert all(kernels[name]["within_tolerance"] for name in moco_gpu.KERNELS)
    assert found["data"]["training"]["pairs_per_second"] > 0


def test_a_part_that_fails_leaves_its_error_and_the_others(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("no kernel\nand a long trace")

    monkeypatch.setattr(moco_gpu.Benchmark, "speeds", fail)
    with pytest.raises(SystemExit, match="1"):
        moco_gpu.main(["--device", "cpu", "--parts", "speed", "data", "--results", str(tmp_path)])
    found = result(tmp_path)
    assert found["speed"] == {"error": "no kernel"}
    assert found["data"]["training"]["pairs_per_second"] > 0


def test_a_clock_that_has_run_out_lists_what_was_not_reached(tmp_path):
    moco_gpu.main(["--device", "cpu", "--seconds", "0", "--parts", "speed", "--results", str(tmp_path)])
    assert all(row["not_reached"] for row in result(tmp_path)["speed"]["rows"])


@pytest.mark.slow
def test_the_film_world_of_the_gpu_script(tmp_path):
    moco_gpu.main(["--device", "cpu", "--parts", "film_world", "--results", str(tmp_path)])
    found = result(tmp_path)["film_world"]
    assert found["in_batch"]["steps"] == found["momentum"]["steps"] == 4
    for name in ("frozen", "in_batch", "momentum"):
        assert 0 <= found[name]["raw/precision_at_1"] <= 1
