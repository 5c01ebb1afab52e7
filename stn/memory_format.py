"""The order in memory in which a network trains fastest: channels last or channels first."""

import torch
from torch import Tensor


def fastest_memory_format(device: torch.device, precision: torch.dtype) -> torch.memory_format:
    """Return the memory format of images and filters for training with this dtype of autocast.

    CPUs convolve channels-last images fastest, and so do GPUs in bf16. In fp32 without TF32, most of cuDNN's kernels
    read channels-first images and copy others (docs/gpu.md).
    """
    on_gpu_in_fp32 = device.type == "cuda" and precision == torch.float32
    return torch.contiguous_format if on_gpu_in_fp32 else torch.channels_last


def in_fastest_memory_format(images: Tensor, precision: torch.dtype) -> Tensor:
    """Return images (B, C, H, W) in the format of :func:`fastest_memory_format`; other tensors as they are."""
    if images.ndim != 4:
        return images
    memory_format = fastest_memory_format(images.device, precision)
    if memory_format == torch.channels_last:
        return images.contiguous(memory_format=memory_format)
    # ``contiguous`` would leave the strides of gray images, by which cuDNN takes them for channels last.
    return images.to(memory_format=memory_format)
