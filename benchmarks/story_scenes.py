"""Story scenes of long films: seconds and peak memory, by the length of the film.

    python -m benchmarks.story_scenes             about a minute on two cores

Each film is divided in a process of its own: axes are fitted to it, and its scenes are found, from vectors of 768
numbers, CLIP ViT-B/16's. Costs of runs of up to 256 shots, in float64, are 2 KiB a shot: 41 MB for 20,000 shots. Its
vectors take 31 MB as they are stored, in float16, and 123 MB in float64, of which there are about three copies at a
time. Predicted with the modules: about 0.8 GiB. The sums of runs are 256 · 32 · 20,000 multiplications and as many
additions: less than a second. The division takes 20,000 small steps, about 10 µs each, repeated some five times: a
second.
"""

import multiprocessing
import resource
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks.harness import write_result
from m2s.commands import run_command

DIM = 768


@dataclass
class StoryScenesArguments:
    lengths: list[int] = field(
        default_factory=lambda: [1_000, 5_000, 20_000], metadata={"help": "lengths of the films in shots"}
    )


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.story_scenes", StoryScenesArguments, run, argv)


def run(arguments: StoryScenesArguments) -> None:
    content = {}
    for num_shots in arguments.lengths:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            content[f"{num_shots} shots"] = pool.apply(measure, (num_shots,))
    write_result("story_scenes", "float64", content)


def film(num_shots: int) -> np.ndarray:
    """Vectors (T, D) of shots like CLIP's, float16, in scenes of 1 to 29 shots."""
    random = np.random.default_rng(num_shots)
    scene = np.repeat(np.arange(num_shots), random.integers(1, 30, num_shots))[:num_shots]
    means = random.normal(0, 0.2, (scene[-1] + 1, DIM))
    return (random.normal(0, 0.35, DIM) + means[scene] + random.normal(0, 0.2, (num_shots, DIM))).astype(np.float16)


def measure(num_shots: int) -> dict[str, float]:
    """Seconds, and the peak of the process's memory in MiB, with its modules and with making the film."""
    from modeling_m2s.story_scenes_m2s import SceneAxes, story_scenes

    shots_TD = film(num_shots)
    started, started_cpu = time.perf_counter(), time.process_time()
    axes = SceneAxes.fit([shots_TD])
    fitted = time.perf_counter()
    scenes = story_scenes(shots_TD, axes)
    return {
        "scenes": len(scenes),
        "seconds_axes": round(fitted - started, 2),
        "seconds_scenes": round(time.perf_counter() - fitted, 2),
        "processor_seconds": round(time.process_time() - started_cpu, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
