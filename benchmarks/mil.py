"""Movie-similarity learning, our factored form against the paper's network written out: speed and peak memory.

    python -m benchmarks.mil                    about three minutes on two cores
    python -m benchmarks.mil --device cuda      film pairs a second from features on a GPU

Written out: E_learnable of every shot, A of 1024×1024 similarities, average and maximum pooling. Factored: means over
16 shots come first, and each film of a batch is encoded once. Both use the same weights, and their losses are asserted
equal, without dropout, before anything is timed. Films have 1,024 shots; a positive pair and its negative pair share a
film.

Counted beforehand, in multiply-adds per film pair, forward and backward. Both together cost three times forward, less
the gradient of the features, which is not needed:

                       product and pooling          whole step, two films a pair          factored, 1.5 films a pair
    written out        3·T²·H       = 1.6 G         2·(2·T·D·H + 3·T·H²) + 3·T²·H = 4.3 G
    factored           3·W²·H       = 0.025 G       2·(2·T·D·H + 3·W·H²) + 3·W²·H = 1.3 G             = 1.0 G
    ratio              65                           3.3                                               4.4

A takes 4.2 MB a pair, and its gradient as much; B takes 65 kB. At 50,000 pairs/s on a GPU, the factored step needs
100 TFLOP/s in bfloat16. At 1 MB a film, every pass over the shots of all films needs 0.08 TB/s. Gathering, activation,
dropout, mask and means are about 15 passes, forward and backward, or fewer if they are fused. To be measured on a GPU.
"""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.harness import alternate, write_result
from m2s.commands import run_command
from modeling_m2s import M2SMovieSimilarityConfig, M2SMovieSimilarityModel
from train.mil.loop import PairLoss

SHOTS = 1024
FACTORED, WRITTEN_OUT = "factored", "written out"


def build(device: torch.device) -> M2SMovieSimilarityModel:
    torch.manual_seed(0)
    return M2SMovieSimilarityModel(M2SMovieSimilarityConfig()).to(device)


def batch_of(num_pairs: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of 1.5 films a pair, as long as CLIP's; film pairs, of which every two share a film; labels."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_pairs // 2 * 3, SHOTS, 512, generator=generator) * 0.44
    anchors = 3 * torch.arange(num_pairs // 2)
    films = torch.stack([anchors, anchors + 1, anchors, anchors + 2], 1).view(-1, 2)
    labels = torch.tensor([1, 0]).repeat(num_pairs // 2)
    return features.half().to(device), films.to(device), labels.to(device)


def pooled_written_out(a_PTH: torch.Tensor, b_PTH: torch.Tensor) -> torch.Tensor:
    scenes = F.avg_pool2d(a_PTH @ b_PTH.mT, 16, 8)
    return F.max_pool2d(scenes, 16, 8)


def pooled_factored(model: M2SMovieSimilarityModel, a_PTH: torch.Tensor, b_PTH: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(model._window_means(a_PTH) @ model._window_means(b_PTH).mT, 16, 8)


def loss_written_out(
    model: M2SMovieSimilarityModel, features: torch.Tensor, films: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The loss of the paper's network without our factoring, on both films of every pair."""
    encoded = []
    for side in films.unbind(1):
        shots = features[side].float()
        hidden = model.comparison_projection(model.dropout(model.shot_embeddings(shots)))
        encoded.append(hidden * shots.any(-1, keepdim=True))
    return F.cross_entropy(model.classifier(pooled_written_out(*encoded).flatten(1)), labels)


def time_pooling(device: torch.device, runs: int) -> dict:
    """Times of the product and both poolings of four pairs, forward and backward, ten times over."""
    model = build(device)
    sides = [torch.randn(4, SHOTS, 512, device=device, requires_grad=True) for _ in range(2)]
    torch.testing.assert_close(pooled_factored(model, *sides), pooled_written_out(*sides), rtol=1e-4, atol=1e-4)

    def ten_times(pooled: Callable[..., torch.Tensor]) -> None:
        for _ in range(10):
            torch.autograd.grad(pooled(*sides).sum(), sides)

    factored = functools.partial(pooled_factored, model)
    candidates = {FACTORED: lambda: ten_times(factored), WRITTEN_OUT: lambda: ten_times(pooled_written_out)}
    return compare(candidates, device, runs)


def time_steps(device: torch.device, num_pairs: int, runs: int) -> dict:
    model, batch = build(device), batch_of(num_pairs, device)
    steps = steps_of(model, batch)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(PairLoss(model)(*batch), loss_written_out(model, *batch), rtol=1e-5, atol=1e-6)
    model.train()
    return {"film_pairs": num_pairs, **compare(steps, device, runs)}


def steps_of(model: M2SMovieSimilarityModel, batch: tuple) -> dict[str, Callable[[], None]]:
    """A training step for each of the two ways, with the same optimizer."""
    optimizer, factored = torch.optim.SGD(model.parameters(), lr=1e-9), PairLoss(model)

    def step(loss: Callable[[], torch.Tensor]) -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        FACTORED: lambda: step(lambda: factored(*batch)),
        WRITTEN_OUT: lambda: step(lambda: loss_written_out(model, *batch)),
    }


def compare(candidates: dict[str, Callable[[], None]], device: torch.device, runs: int) -> dict:
    def finished(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    times = alternate({name: finished(call) for name, call in candidates.items()}, runs)
    ratio = times[WRITTEN_OUT]["wall_seconds"] / max(times[FACTORED]["wall_seconds"], 1e-3)
    cpu_ratio = times[WRITTEN_OUT]["cpu_seconds"] / max(times[FACTORED]["cpu_seconds"], 1e-3)
    return {**times, "times_as_fast": round(ratio, 1), "times_as_fast_in_processor_time": round(cpu_ratio, 1)}


def peak_memory(way: str, device: str, num_pairs: int) -> float:
    """MiB that one step adds to those of the model and the features, measured in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.mil",
        "--device",
        device,
        "--pairs",
        str(num_pairs),
        "--memory-of",
        way,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_of_a_step(way: str, device: torch.device, num_pairs: int) -> float:
    model, batch = build(device), batch_of(num_pairs, device)
    step = steps_of(model, batch)[way]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status_kib("VmRSS")
    step()
    return round((status_kib("VmHWM") - before) / 2**10, 1)


def status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def gpu_rate(device: torch.device, num_films: int = 3000, steps: int = 100) -> dict[str, float]:
    """Film pairs a second in whole steps of 256 pairs, in bfloat16, with the features of all films on the device."""
    model = build(device)
    bank = torch.randn(num_films, SHOTS, 512, device=device, dtype=torch.float16) * 0.44
    _, films, labels = batch_of(256, device)
    optimizer, rates = torch.optim.SGD(model.parameters(), lr=1e-9), {}
    for name, loss in (("eager", PairLoss(model)), ("compiled", torch.compile(PairLoss(model)))):
        for step in range(steps + 10):
            if step == 10:
                torch.cuda.synchronize()
                started = time.perf_counter()
            chosen = torch.randint(num_films, (384,), device=device)
            with torch.autocast("cuda", torch.bfloat16):
                loss(bank[chosen], films, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        rates[name] = round(256 * steps / (time.perf_counter() - started))
    return rates


@dataclass
class Options:
    """Inputs of the measurement, and its repetitions."""

    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    pairs: int = field(default=8, metadata={"help": "number of film pairs in a step"})
    runs: int = field(default=5, metadata={"help": "number of runs of each candidate, in turn"})
    memory_of: str | None = field(
        default=None, metadata={"help": "only measure the memory of a step of this way, in this process"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.mil", Options, run, argv)


def run(options: Options) -> None:
    device = torch.device(options.device)
    if options.memory_of:
        print(memory_of_a_step(options.memory_of, device, options.pairs))
        return
    content = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "product and pooling": time_pooling(device, options.runs),
        "whole step": time_steps(device, options.pairs, options.runs),
        "peak_mib": {way: peak_memory(way, options.device, options.pairs) for way in (FACTORED, WRITTEN_OUT)},
    }
    if device.type == "cuda":
        content["film_pairs_a_second"] = gpu_rate(device)
    write_result("mil" if device.type == "cpu" else f"mil-{device.type}", "float32", content)


if __name__ == "__main__":
    main()
