"""Linear layers and patch embeddings of a finished network, faster on some CPUs.

PyTorch multiplies by MKL and convolves by oneDNN. Where that is faster, a linear layer
is computed as a convolution of 1 x 1, and that of an image, whose three channels leave
most of a vector empty, as one of patches (docs/speed.md). Delete it when MKL wins.
"""

import timeit
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .state import is_compiling, needs_plain_operations


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` by oneDNN's convolution; the tokens are a map ``[1, C, 1, N]``."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C']``."""
        if _is_plain(x, self.weight):
            return super().forward(x)
        tokens = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(tokens, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class PatchConv2d(nn.Conv2d):
    """``nn.Conv2d`` of an image, as one with stride 1 of patches as channels."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, C', H', W']``."""
        stride, before = self.stride[0], self.padding[0]
        if _is_plain(x, self.weight) or x.shape[2] % stride or x.shape[3] % stride:
            return super().forward(x)
        rest = -self.kernel_size[0] % stride
        sides = (before, before + rest) * 2, (0, rest) * 2
        pairs = zip((x, self.weight), sides)
        x, weight = (F.pixel_unshuffle(F.pad(*pair), stride) for pair in pairs)
        return F.conv2d(x, weight, self.bias)


def accelerate_cpu(model: nn.Module, enable: bool = True) -> nn.Module:
    """Exchange the layers of a network in-place; parameters and hooks stay.

    Args:
        model (nn.Module): Any network, in float32 on a CPU: elsewhere nothing changes.
        enable (bool): False undoes it, such as before quantizing. Defaults to True.
    """
    faster = {nn.Linear: OneDNNLinear, nn.Conv2d: PatchConv2d}
    exchange = faster if enable else {new: plain for plain, new in faster.items()}
    for module in model.modules():
        if type(module) is not nn.Conv2d or _embeds_patches(module):
            module.__class__ = exchange.get(type(module), type(module))
    return model


def is_faster_accelerated() -> bool:
    """Measure, in some milliseconds, whether this CPU gains from `accelerate_cpu`."""
    x, seconds = torch.rand(1024, 384), []
    with torch.no_grad():
        for layer in (nn.Linear(384, 1536), OneDNNLinear(384, 1536)):
            seconds.append(min(timeit.repeat(partial(layer, x), number=1, repeat=9)))
    return torch.backends.mkldnn.is_available() and seconds[1] < 0.9 * seconds[0]


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Return whether PyTorch's own layer is what to run."""
    faster = x.is_cpu and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    traced = is_compiling() or needs_plain_operations()
    return not faster or traced or torch.is_autocast_cpu_enabled()


def _embeds_patches(conv: nn.Conv2d) -> bool:
    (kernel, width), stride, padding = conv.kernel_size, conv.stride[0], conv.padding
    simple = (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1), 'zeros')
    square = kernel == width >= stride == conv.stride[1] >= 4 >= conv.in_channels
    return simple and square and padding == ((kernel - stride) / 2,) * 2  # centred
