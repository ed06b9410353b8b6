"""What `m2s search` found: as lines, as JSON, as clips."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2s.shared import one_line, print_error, quote

if TYPE_CHECKING:
    from modeling_m2s.search_m2s import Scene, SceneIndex

Hit = dict[str, Any]


def describe(index: "SceneIndex", results: "Sequence[Scene]", by_words: bool) -> list[Hit]:
    """The hits, nearest first, as JSON has them.

    Args:
        by_words: the hits are shots found by words; each then has its `scene`, and a similarity in place of a distance.
    """
    from modeling_m2s.video_m2s import title_files
    from modeling_m2s.words_m2s import similarity

    hits = []
    for rank, found in enumerate(results, 1):
        video = index.films[found.movie_id].facts["video"]
        hit = {"rank": rank, "movie_id": found.movie_id, "video": video, **_place(found)}
        if by_words:
            scene = index.scene_at(found.movie_id, (found.start_seconds + found.end_seconds) / 2)
            hit |= {"similarity": round(similarity(found.distance), 4), "scene": _place(scene)}
        else:
            hit["distance"] = round(found.distance, 4)
        hit["near_duplicates"] = found.num_folded
        files = title_files(video)
        start = f"{'--merge-files ' if len(files) > 1 else ''}--start={found.start_seconds:.3f}"
        hit["player"] = f"mpv {start} {' '.join(quote(str(file)) for file in files)}"
        hits.append(hit)
    return hits


def _place(scene: "Scene") -> Hit:
    return {name: getattr(scene, name) for name in ("start_seconds", "end_seconds", "first_shot", "num_shots")}


def score(hit: Hit) -> str:
    """How near a hit is, in two words."""
    return f"distance {hit['distance']:.2f}" if "distance" in hit else f"similarity {hit['similarity']:.3f}"


def cut_hits(index: "SceneIndex", hits: Sequence[Hit], folder: Path, padding: float) -> bool:
    """Write every hit as a clip, and add its `clip` to it; returns whether all could be cut.

    Raises:
        StorageError: the folder cannot be written.
    """
    from modeling_m2s.clips_m2s import cut_clip
    from modeling_m2s.video_m2s import VideoError, printable

    number = index.shots.record["settings"].get("video_stream")
    for hit in hits:
        facts = index.films[hit["movie_id"]].facts
        start = max(0.0, hit["start_seconds"] - padding)
        end = min(hit["end_seconds"] + padding, max(facts["duration_seconds"], hit["end_seconds"]))
        try:
            clip = cut_clip(Path(hit["video"]), folder, hit["movie_id"], start, end, facts["fingerprint"], number)
        except VideoError as error:
            print_error(str(error))
            hit |= {"clip": None, "clip_error": str(error)}
        else:
            times = {"start_seconds": clip.start_seconds, "end_seconds": clip.end_seconds}
            hit |= {"clip": {"path": printable(clip.path), **times}}
    return all(hit["clip"] for hit in hits)


def print_lines(folder: Path, query: str, hits: Sequence[Hit], picture: Path | None, space: str | None) -> None:
    """The hits for people: a line each, and below it the command that plays it.

    Args:
        space: the space in which distances were measured; None for similarities to words.
    """
    from modeling_m2s.figures_m2s import timecode

    def place(of: Hit) -> str:
        span = f"{timecode(of['start_seconds'], tenths=True)}-{timecode(of['end_seconds'], tenths=True)}"
        return f"{span}  shots {of['first_shot']}-{of['first_shot'] + of['num_shots'] - 1}"

    print(f"query   {one_line(query)}" + (f"   (distances in the {space} space)" if space else ""))
    for hit in hits:
        scene = f"   in scene {place(hit['scene'])}" if "scene" in hit else ""
        print(f"{hit['rank']:5d}   {one_line(hit['movie_id'])}  {place(hit)}   {score(hit)}{scene}")
        print(f"        {hit['player']}")
        if clip := hit.get("clip"):
            early = hit["start_seconds"] - clip["start_seconds"]
            print(f"        clip: {one_line(clip['path'])}  begins {early:.1f} s before, at a key frame")
    if folded := sum(hit["near_duplicates"] for hit in hits):
        print(f"near-duplicates of these, left out: {folded}; --keep-duplicates shows them")
    if picture:
        print(f"picture: {picture}")


def print_json(folder: Path, query: str, hits: Sequence[Hit], picture: Path | None, space: str | None) -> None:
    """The hits for programs: one JSON document, in ASCII."""
    from modeling_m2s.video_m2s import printable

    document = {
        "index": printable(folder),
        "query": query,
        "space": space,
        "near_duplicates": sum(hit["near_duplicates"] for hit in hits),
        "picture": printable(picture) if picture else None,
        "hits": hits,
    }
    print(json.dumps(document, indent=2))
