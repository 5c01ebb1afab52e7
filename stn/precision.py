"""The choice between fp32 and bf16 autocast, by what the hardware has and by a measurement."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stn.classifiers import Network
from stn.cuda_graph import capture_function
from stn.memory_format import fastest_memory_format, in_fastest_memory_format
from stn.tf32 import without_tf32

SETTINGS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORTH_IT = 1.2  # bf16 must be faster by this factor, because it rounds more
ROUNDS = 3  # timed steps in each precision, after one that is not timed
LONGEST_S = 5.0  # no further round begins after this time
CPU_IMAGES = 64


def choose_precision(
    setting: str, device: torch.device, measure_speedup: Callable[[], float] | None = None
) -> tuple[torch.dtype, str]:
    """Choose the dtype of autocast; return it and the reason for the choice.

    Args:
        setting: ``auto``, ``fp32`` or ``bf16``. ``auto`` chooses bf16 on hardware with bf16 instructions where a step
            of training is faster by a factor of at least :data:`WORTH_IT`.
        device: where the network is trained.
        measure_speedup: returns that factor. Called at most once. None: the hardware alone decides.
    """
    if setting != "auto":
        return SETTINGS[setting], "set by hand"
    supported, hardware = describe_bf16(device)
    if not supported or measure_speedup is None:
        return (torch.bfloat16 if supported else torch.float32), hardware
    speedup = measure_speedup()
    dtype = torch.bfloat16 if speedup >= WORTH_IT else torch.float32
    return dtype, f"{hardware}; a step with bf16 is {speedup:.2f} times as fast, chosen from {WORTH_IT} on"


def describe_bf16(device: torch.device) -> tuple[bool, str]:
    """Return whether a device has bf16 instructions, and a sentence that says so."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return True, f"{name} multiplies bf16 matrices in hardware"
        return False, f"{name} has no bf16 hardware"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # missing in torch 2.9
    if capabilities.get("amx_bf16"):
        return True, "this CPU multiplies bf16 matrices in hardware (AMX)"
    if capabilities.get("avx512_bf16"):
        return True, "this CPU has bf16 instructions (AVX512-BF16)"
    return False, "this CPU has no bf16 instructions"


@without_tf32()
def measure_speedup(
    make_network: Callable[[], Network], images: Tensor, labels: Tensor, *, captured: bool = False
) -> float:
    """Measure how many times as fast a training step is with bf16 autocast as with fp32.

    Both are timed in turns, forward and backward, and the fastest step of each counts. On a CPU, one thread computes
    :data:`CPU_IMAGES` images, and the time that it computes is taken: other programs on the same cores change the wall
    time much more, and the time of several threads. Torch's random state is kept.

    On a GPU, an eager step of a small network takes the time in which Python starts its kernels. A captured step takes
    less (docs/gpu.md).

    Args:
        make_network: builds the network that is timed. Called once for each precision.
        images: a normalized batch (B, C, H, W) on the device of the training.
        labels: their labels (B,).
        captured: the training repeats a captured step. The passes are captured, too, if that is possible.
    """
    threads = torch.get_num_threads()
    try:
        if images.device.type == "cpu":
            torch.set_num_threads(1)
            images, labels = images[:CPU_IMAGES], labels[:CPU_IMAGES]
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            steps = {dtype: _make_step(make_network, images, labels, dtype) for dtype in SETTINGS.values()}
            return _compare(steps, images.device, captured)
    finally:
        torch.set_num_threads(threads)


def _make_step(
    make_network: Callable[[], Network], images: Tensor, labels: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    """Return what performs the passes of a network that was made for this precision."""
    network = make_network().to(images.device)
    network.to(memory_format=fastest_memory_format(images.device, dtype))  # pyright: ignore[reportCallIssue]
    return partial(_step, network.train(), in_fastest_memory_format(images, dtype), labels, dtype)


def _compare(steps: dict[torch.dtype, Callable[[], None]], device: torch.device, captured: bool) -> float:
    """Time the steps of :func:`measure_speedup`; returns the factor."""
    fastest: dict[torch.dtype, float] = {}
    if captured:
        with suppress(RuntimeError):  # then both are timed eagerly
            steps = {dtype: capture_function(step) for dtype, step in steps.items()}
    started = time.perf_counter()
    for turn in range(ROUNDS + 1):
        if turn > 1 and time.perf_counter() - started > LONGEST_S:
            break
        for dtype, step in steps.items():
            seconds = _time(step, device)
            if turn:
                fastest[dtype] = min(seconds, fastest.get(dtype, seconds))
    return fastest[torch.float32] / fastest[torch.bfloat16]


def _step(network: Network, images: Tensor, labels: Tensor, dtype: torch.dtype) -> None:
    """One forward and backward pass."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = F.cross_entropy(network(images), labels)
    loss.backward()


def _time(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of one step; on a CPU, the seconds of computing."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    started = clock()
    step()
    _wait(device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
