"""Random changes of a scene's pictures, the same for all of its frames (ours; the paper names none).

Night, monochrome and a film's color grading say little about the content of a scene; random crops and colors teach the
encoder to ignore them.
"""

import numpy as np
import torch
from torch.nn import functional as F

SMALLEST_CROP = 0.6  # share of each side
GRAY_SHARE = 0.2
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.4, 0.4


def draw_augmentations(random: np.random.Generator, num_pairs: int) -> torch.Tensor:
    """Numbers (2, pairs, 7) for `augment`: size, x and y of the crop, mirrored or not, brightness, contrast, color."""
    size = random.uniform(SMALLEST_CROP, 1, (2, num_pairs))
    x, y = (random.uniform(-1, 1, (2, num_pairs)) * (1 - size) for _ in range(2))
    mirror = random.choice([-1.0, 1.0], (2, num_pairs))
    brightness, contrast, saturation = (
        random.uniform(1 - strength, 1 + strength, (2, num_pairs)) for strength in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    saturation = np.where(random.random((2, num_pairs)) < GRAY_SHARE, 0, saturation)
    return torch.from_numpy(np.stack([size, x, y, mirror, brightness, contrast, saturation], -1)).float()


def augment(pixels_BFCYX: torch.Tensor, augmentations_BA: torch.Tensor) -> torch.Tensor:
    """Change uint8 pixels (B, F, 3, Y, X) of each scene by its own numbers (B, 7); returns uint8.

    A crop is resized bilinearly to the whole picture. Brightness scales all values, contrast the distance to the mean
    gray of a frame, saturation the distance of each pixel to its own gray.
    """
    with torch.autocast(pixels_BFCYX.device.type, enabled=False):  # in bfloat16, a crop would be off by half a pixel
        num_frames = pixels_BFCYX.shape[1]
        per_frame = augmentations_BA.to(pixels_BFCYX.device).repeat_interleave(num_frames, 0)
        size, x, y, mirror, brightness, contrast, saturation = per_frame.unbind(1)
        zero = torch.zeros_like(size)
        transform = torch.stack([torch.stack([size * mirror, zero, x], 1), torch.stack([zero, size, y], 1)], 1)
        pixels = pixels_BFCYX.flatten(0, 1).float()
        grid = F.affine_grid(transform, list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        pixels = pixels * brightness[:, None, None, None]
        gray = (pixels * pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        pixels = gray + (pixels - gray) * saturation[:, None, None, None]
        mean = gray.mean((2, 3), keepdim=True)
        pixels = mean + (pixels - mean) * contrast[:, None, None, None]
        return pixels.clamp(0, 255).round().to(torch.uint8).unflatten(0, pixels_BFCYX.shape[:2])
