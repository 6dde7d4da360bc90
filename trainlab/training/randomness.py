"""Device, threads, and separate random streams for separate purposes.

Every stream is a pure function of (seed, purpose, position), so adding one never changes another:
`init` draws the weights, `order` the batches of an epoch, `dropout` is torch's global generator
during training (so that dropout in any model follows it). Python's and NumPy's global generators
are seeded with it.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from trainlab.errors import MachineError


def number(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed that depends on all its arguments and on nothing else."""
    text = "/".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `stream(seed, "order", epoch)`."""
    return torch.Generator().manual_seed(number(seed, purpose, *position))


def seed_everything(seed: int, purpose: str) -> None:
    """Seed the global generators (torch on every device, NumPy, Python) for one purpose."""
    torch.manual_seed(number(seed, purpose))
    np.random.seed(number(seed, purpose, 1) % 2**32)
    random.seed(number(seed, purpose, 2))


@contextmanager
def init_stream(seed: int, part: int) -> Iterator[None]:
    """Set torch's global CPU generator to the `init` stream; weights are drawn on the CPU, so that
    they are the same for every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number(seed, "init", part))
        yield


def random_state() -> tuple[dict[str, torch.Tensor], dict]:
    """Every global generator: (tensors, JSON-ready numbers)."""
    tensors = {"rng.torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"rng.cuda.{index}"] = state
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    tensors["rng.numpy"] = torch.from_numpy(keys.astype(np.int64))
    version, internal, gauss_next = random.getstate()
    tensors["rng.python"] = torch.tensor(internal)
    return tensors, {"numpy": [kind, position, has_gauss, gauss], "python": [version, gauss_next]}


def restore_random_state(tensors: dict[str, torch.Tensor], numbers: dict) -> None:
    """The inverse of `random_state`. CUDA states of missing devices are skipped."""
    torch.set_rng_state(tensors["rng.torch"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"rng.cuda.{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"rng.cuda.{index}"], index)
    kind, position, has_gauss, gauss = numbers["numpy"]
    np.random.set_state(
        (kind, tensors["rng.numpy"].numpy().astype(np.uint32), position, has_gauss, gauss)
    )
    version, gauss_next = numbers["python"]
    random.setstate((version, tuple(tensors["rng.python"].tolist()), gauss_next))


def join(device: str, threads: int, precision: str = "fp32") -> torch.device:
    """Set the number of threads (1 and 2 give different bits) and choose the device."""
    torch.set_num_threads(threads)
    products = "tf32" if precision == "tf32" else "ieee"  # torch's default is tf32 for convolutions
    torch.backends.fp32_precision = torch.backends.cudnn.conv.fp32_precision = products
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise MachineError(
                f"device = {device}: no CUDA device on this machine; use device=cpu or device=auto"
            )
        if ":" in device and int(device.split(":")[1]) >= count:
            raise MachineError(
                f"device = {device}: this machine has cuda:0 .. cuda:{count - 1}; use one of them"
            )
    return torch.device(device)


def environment(device: torch.device) -> dict:
    """What bit-identity depends on; compared on resume."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
