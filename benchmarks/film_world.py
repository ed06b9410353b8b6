"""How many films of a film world one core makes in an hour: as MP4 files, and as keyframes only.

    python -m benchmarks.film_world

Each run makes two films of a minute at the default size. The result is films per hour of one core's time.
"""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import alternate, write_result
from m2s.commands import run_command

NUM_FILMS = 2


def main(argv: list[str] | None = None) -> None:
    run_command("python -m benchmarks.film_world", (), run, argv)


def run() -> None:
    from data_scripts.film_world.making import write_keyframes, write_video
    from data_scripts.film_world.plan import WorldSettings, plan_world
    from modeling_m2s.storage_m2s import write_json

    settings = WorldSettings(num_films=NUM_FILMS)
    films = plan_world(settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def videos() -> None:
            for film in films:
                write_video(settings, film, folder / f"{film.movie_id}.mp4")

        def keyframes() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "world.json", asdict(settings))
            write_keyframes(settings, films, folder)

        times = alternate({"videos": videos, "keyframes only": keyframes}, runs=3)
    rates = {kind: round(3600 * NUM_FILMS / each["cpu_seconds"]) for kind, each in times.items()}
    facts = {"films_of_a_minute": NUM_FILMS, "films_an_hour_of_one_core": rates}
    write_result("film_world", "uint8", {**facts, "times": times})


if __name__ == "__main__":
    main()
