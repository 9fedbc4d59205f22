"""Linear layers and patch embeddings of a finished network, faster on some CPUs.

PyTorch multiplies matrices by MKL and convolves by oneDNN. Where oneDNN is faster, a
linear layer is better computed as a convolution of 1 x 1; and one of an image, whose
three channels leave most of a vector empty, as one of its patches. The plain twins are
``nn.Linear`` and ``nn.Conv2d``; docs/speed.md has what it saves, and where that was
measured. Delete it when PyTorch multiplies by the faster of the two.
"""

import copy
import timeit
from functools import partial

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
        """``[B, 3, H, W]`` to ``[B, C', H', W']``, sides multiples of the stride."""
        stride, before = self.stride[0], self.padding[0]
        if _is_plain(x, self.weight) or x.shape[2] % stride or x.shape[3] % stride:
            return super().forward(x)
        rest = -self.kernel_size[0] % stride
        x = F.pad(x, (before, before + rest, before, before + rest))
        weight = F.pad(self.weight, (0, rest, 0, rest))
        x, weight = (F.pixel_unshuffle(m, stride) for m in (x, weight))
        return F.conv2d(x, weight, self.bias)


def accelerate_cpu(model: nn.Module, enable: bool = True) -> nn.Module:
    """Exchange the layers of a finished network in-place; parameters and hooks stay.

    Args:
        model (nn.Module): Any network. On another device, in another dtype than float32
            and under autocast its layers stay PyTorch's own.
        enable (bool): False undoes it, such as before ``quantize_dynamic``, which knows
            PyTorch's own layers only. Defaults to True.
    """
    faster = {nn.Linear: OneDNNLinear, nn.Conv2d: PatchConv2d}
    exchange = faster if enable else {new: plain for plain, new in faster.items()}
    for module in model.modules():
        if type(module) is not nn.Conv2d or _embeds_patches(module):
            module.__class__ = exchange.get(type(module), type(module))
    return model


def is_faster_accelerated() -> bool:
    """Measure, in some milliseconds, whether this CPU gains from `accelerate_cpu`."""
    plain, x = nn.Linear(384, 1536), torch.rand(1024, 384)
    fast = accelerate_cpu(copy.deepcopy(plain))
    with torch.no_grad():
        seconds, fast_seconds = (
            min(timeit.repeat(partial(layer, x), number=1, repeat=9))
            for layer in (plain, fast)
        )
    return torch.backends.mkldnn.is_available() and fast_seconds < 0.9 * seconds


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Return whether PyTorch's own layer is what to run."""
    fast = x.is_cpu and x.dtype == weight.dtype == torch.float32
    transformed = is_compiling() or needs_plain_operations()
    return not fast or transformed or torch.is_autocast_cpu_enabled()


def _embeds_patches(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is that of an image's patches, 4 pixels or more."""
    (kernel, width), (stride, across) = conv.kernel_size, conv.stride
    centred = conv.padding == ((kernel - stride) // 2,) * 2
    simple = conv.groups == 1 and conv.dilation == (1, 1) and kernel == width
    zeros = conv.padding_mode == 'zeros'
    return (
        kernel >= stride == across >= 4 >= conv.in_channels
        and centred
        and simple
        and zeros
    )
