"""Accelerate the linear layers of a network on some CPUs.

PyTorch computes matrix products with MKL and convolutions with oneDNN. On CPUs where
oneDNN is faster, a linear layer is computed as a 1 x 1 convolution (docs/speed.md).
Delete this module when MKL is always faster.
"""

import timeit
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .state import is_compiling, needs_plain_operations


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` as a convolution of oneDNN on a map ``[1, C, 1, N]``."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to ``[..., C']``."""
        if _use_plain_layer(x, self.weight):
            return super().forward(x)
        tokens = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
        out = F.conv2d(tokens, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


def accelerate_cpu(model: nn.Module, enable: bool = True) -> nn.Module:
    """Replace the linear layers of a network in-place, keeping parameters and hooks.

    Args:
        model (nn.Module): Any network. Only float32 on a CPU is affected.
        enable (bool): False undoes it, e.g. before quantization. Defaults to True.
    """
    old, new = (nn.Linear, OneDNNLinear) if enable else (OneDNNLinear, nn.Linear)
    for module in model.modules():
        if type(module) is old:
            module.__class__ = new
    return model


def is_faster_accelerated() -> bool:
    """Measure in a few milliseconds whether `accelerate_cpu` helps on this CPU."""
    x, seconds = torch.rand(512, 384), []
    with torch.no_grad():
        for layer in (nn.Linear(384, 1536), OneDNNLinear(384, 1536)):
            seconds.append(min(timeit.repeat(partial(layer, x), number=1, repeat=5)))
    return torch.backends.mkldnn.is_available() and seconds[1] < 0.9 * seconds[0]


def _use_plain_layer(x: Tensor, weight: Tensor) -> bool:
    """Return whether to run PyTorch's own layer."""
    faster = x.is_cpu and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    traced = is_compiling() or needs_plain_operations()
    return not faster or traced or torch.is_autocast_cpu_enabled()
