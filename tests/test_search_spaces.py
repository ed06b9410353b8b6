"""The figures of `eval.search_spaces` against loops, and its table."""

import numpy as np
import pytest

from eval.film_worlds import search_figures
from eval.film_worlds.search_figures import figures, markdown, scene_vectors
from eval.film_worlds.truth import TrueScene
from eval.search_spaces import SearchSpacesArguments
from modeling_m2s.scene_space_m2s import SPACES, SceneSpace


def test_figures_are_those_of_a_loop():
    random = np.random.default_rng(0)
    vectors = {"joint": random.normal(size=(40, 5)) + 3, "mean": random.normal(size=(40, 5))}
    places, groups = random.integers(0, 4, 40).astype(str), np.repeat(list("abcdefgh"), 5)
    is_query = random.random(40) < 0.6
    parts = [np.isin(groups, list(films)) for films in ("abcd", "efgh")]
    found = figures(vectors, places, groups, is_query, parts)
    for name, all_vectors in vectors.items():
        for space in SPACES:
            hits = []
            for part in map(np.flatnonzero, parts):
                points = SceneSpace.fit(all_vectors[part], space).apply(all_vectors[part])
                for k in np.flatnonzero(is_query[part]):
                    others = np.flatnonzero(groups[part] != groups[part[k]])
                    nearest = min(others, key=lambda other: np.linalg.norm(points[other] - points[k]))
                    hits.append(places[part[nearest]] == places[part[k]])
            assert found[f"{name}, {space}"] == pytest.approx(np.mean(hits), abs=1e-4)
    facts = {"model": "m", "films": 40, "film_seconds": 9.0, "seeds": {"1": {}, "2": {}}}
    over_seeds = {"drawings, 40 films": {name: {"mean": 0.5, "deviation": 0.25} for name in found}}
    lines = markdown({**facts, "over_seeds": over_seeds}).splitlines()
    assert "seeds 1, 2, encoder m," in lines[0] and lines[2].split("|")[2].strip() == "drawings, 40 films"
    assert [line.split("|")[1].strip() for line in lines[4:]] == list(found) and "50.0 ± 25.0" in lines[4]


def test_vectors_are_kept_by_revision_and_only_whole(tmp_path, monkeypatch):
    """A model of the same name, or one trained again, is read anew; a write that fails leaves no file."""

    def embed(encoder, frames, scenes):
        return np.array([[sum(scene.shots), encoder] for scene in scenes], np.float32)

    def fail(file, **vectors):
        file.write(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(search_figures, "load_encoder", lambda model: (len(revision), None, revision))
    monkeypatch.setattr(search_figures, "SceneFrames", lambda shots, image_processor: None)
    monkeypatch.setattr(search_figures, "embed_scenes", embed)
    arguments = (tmp_path / "world", [TrueScene("tt1", 0, 2, "a"), TrueScene("tt1", 2, 3, "b")], "someone/model")
    revision = "first"
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(RuntimeError, match="killed"):
            scene_vectors(*arguments)
    assert not list(tmp_path.iterdir())
    for revision in ("first", "another"):
        found = scene_vectors(*arguments)
        assert found["joint"].tolist() == [[1, len(revision)], [9, len(revision)]]
        assert found["mean"].tolist() == [[0.5, len(revision)], [3, len(revision)]]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"world.someone-model-{revision}.npz" for revision in ("first", "another")
    }
    monkeypatch.setattr(search_figures, "embed_scenes", None)  # vectors that are kept are not computed again
    assert scene_vectors(*arguments)["joint"].tolist() == found["joint"].tolist()


@pytest.mark.parametrize(
    ("wrong", "message"), [({"num_films": 30}, "multiple of 20"), ({"seeds": []}, "seeds is empty")]
)
def test_bad_arguments_are_refused(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SearchSpacesArguments(tmp_path, **wrong)
