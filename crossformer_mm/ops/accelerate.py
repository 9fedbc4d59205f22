"""Linear layers and patch embeddings of a finished network, faster on some CPUs.

PyTorch multiplies matrices by MKL and convolves by oneDNN. Where oneDNN is faster, a
linear layer is better computed as a convolution of 1 x 1; and one of an image, whose
three channels leave most of a vector empty, as one of its patches. The plain twins are
``nn.Linear`` and ``nn.Conv2d``; docs/speed.md has what it saves, and where that was
measured. Delete it when PyTorch multiplies by the faster of the two.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .state import is_compiling, needs_plain_operations


class OneDNNLinear(nn.Linear):
    """A linear layer by oneDNN's convolution; the tokens are a map ``[1, C, 1, N]``."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C']``."""
        if _is_plain(x, self.weight):
            return super().forward(x)
        tokens = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(tokens, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class PatchConv2d(nn.Conv2d):
    """A patch embedding, as a convolution with stride 1 of patches as channels."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, C', H', W']``."""
        if _is_plain(x, self.weight):
            return super().forward(x)
        (kernel, _), (stride, _), (before, _) = (
            self.kernel_size,
            self.stride,
            self.padding,
        )
        rest = -kernel % stride
        after = [
            (side + 2 * before - kernel) // stride * stride
            + kernel
            + rest
            - side
            - before
            for side in x.shape[2:]
        ]
        x = F.pad(x, (before, after[1], before, after[0]))
        weight = F.pad(self.weight, (0, rest, 0, rest))
        x, weight = (F.pixel_unshuffle(m, stride) for m in (x, weight))
        return F.conv2d(x, weight, self.bias)


def accelerate_cpu(model: nn.Module, enable: bool = True) -> nn.Module:
    """Exchange the layers of a finished network in-place; parameters and hooks stay.

    Args:
        model (nn.Module): The network, of any kind. Where it runs on another device, in
            another dtype than float32 or under autocast, nothing changes.
        enable (bool): False undoes it, such as before ``quantize_dynamic``, which knows
            PyTorch's own layers only. Defaults to True.

    Returns:
        nn.Module: The same model.
    """
    faster = {nn.Linear: OneDNNLinear, nn.Conv2d: PatchConv2d}
    exchange = faster if enable else {new: plain for plain, new in faster.items()}
    for module in model.modules():
        if type(module) is not nn.Conv2d or _embeds_patches(module):
            module.__class__ = exchange.get(type(module), type(module))
    return model


def is_faster_accelerated() -> bool:
    """Measure, in some milliseconds, whether this CPU gains from `accelerate_cpu`."""
    if not torch.backends.mkldnn.is_available():
        return False
    plain, x = nn.Linear(384, 1536), torch.rand(1024, 384)
    fast = accelerate_cpu(nn.Linear(384, 1536))
    seconds = {plain: [], fast: []}
    with torch.no_grad():
        for layer in (plain, fast) * 6:
            start = time.perf_counter()
            layer(x)
            seconds[layer].append(time.perf_counter() - start)
    return min(seconds[fast]) < 0.9 * min(seconds[plain])


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Return whether PyTorch's own layer is what to run."""
    return (
        not (x.is_cpu and x.dtype == weight.dtype == torch.float32)
        or torch.is_autocast_cpu_enabled()
        or is_compiling()
        or needs_plain_operations()
    )


def _embeds_patches(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is that of an image's patches, 4 pixels or more."""
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride))
    simple = conv.groups == 1 and conv.dilation == (1, 1)
    zeros = conv.padding_mode == 'zeros' and not isinstance(conv.padding, str)
    patches = conv.kernel_size[0] >= conv.stride[0] >= 4 and conv.in_channels <= 4
    return square and simple and zeros and patches and len(set(conv.padding)) == 1
