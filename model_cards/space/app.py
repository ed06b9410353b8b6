"""The page of `m2s app` as a Space of the Hugging Face Hub: opens `index/` and offers the films in `films/`, if any."""

from pathlib import Path

from m2s.main import main
from modeling_m2s.video_m2s import VIDEO_SUFFIXES

HERE = Path(__file__).resolve().parent


def arguments(folder: Path) -> list[str]:
    """The arguments of `m2s app` for the files in a folder."""
    index = [str(folder / "index")] if (folder / "index").is_dir() else []
    films = [film for film in sorted(folder.glob("films/[!.]*")) if film.suffix.lower() in VIDEO_SUFFIXES]
    examples = [f"--example={film}" for film in films]
    return ["app", *index, *examples, "--host", "0.0.0.0", "--port", "7860", "--max-upload", "500mb"]


if __name__ == "__main__":
    raise SystemExit(main(arguments(HERE)))
