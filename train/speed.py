"""A device's peak rate of operations, and the peak memory of a run."""

import resource
import sys
import time
from pathlib import Path

import torch


def peak_operations(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Floating-point operations a second in a large matrix product on this device, an upper bound for any network."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or not best:
        before = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - before))
    return best


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far, in GB (10⁹ bytes): of tensors on the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # preferred, because ru_maxrss may start at the peak of the parent process
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
