"""Cross-scale embedding layer (CEL): tokens that mix patches of several sizes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_kernels
from .convolution import Conv2d, convolve
from .partition import ceil_div


class _CrossScaleConv(nn.ModuleList):
    """Convolutions of several kernel sizes around the same centres, concatenated.

    The smallest patches get half of the channels, each larger size half of the
    size before it, and the largest two the same (CrossFormer section 3.1).

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the concatenated output.
        kernel_sizes (Sequence[int]): Kernel sizes, smallest first.
        stride (int): Stride of all convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int],
        stride: int,
    ) -> None:
        super().__init__()
        self.stride = stride
        for i, kernel_size in enumerate(kernel_sizes, start=1):
            share = out_channels // 2 ** min(i, len(kernel_sizes) - 1)
            padding = (kernel_size - stride) // 2
            self.append(Conv2d(in_channels, share, kernel_size, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H', W', C']``, H' = ceil(H / stride)."""
        # A side that is no multiple of the stride gets zeros, as beyond any border.
        height, width = x.shape[1:3]
        bottom = ceil_div(height, self.stride) * self.stride - height
        right = ceil_div(width, self.stride) * self.stride - width
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        return torch.cat([self.apply_to(x, conv) for conv in self], dim=3)

    @staticmethod
    def apply_to(x: Tensor, conv: Conv2d) -> Tensor:
        """Apply one of the convolutions."""
        return conv(x)


class _ImageConv(_CrossScaleConv):
    """The same of an image, in a fraction of the time.

    An image's three channels leave most of a processor's vectors empty. Its pixels are
    therefore laid out as patches of stride x stride, 48 channels with the stride 4,
    and so are the weights: the products summed are the same.
    """

    @staticmethod
    def apply_to(x: Tensor, conv: Conv2d) -> Tensor:
        """Apply one of the convolutions."""
        stride, before = conv.stride[0], conv.padding[0]
        rest = -conv.kernel_size[0] % stride
        x = F.pad(x, (0, 0, before, before + rest, before, before + rest))
        weight = F.pad(conv.weight, (0, rest, 0, rest)).permute(0, 2, 3, 1)
        weight = _to_patches(weight, stride).permute(0, 3, 1, 2)
        return convolve(_to_patches(x, stride), weight, conv.bias)


def _to_patches(x: Tensor, side: int) -> Tensor:
    """Turn ``[B, H, W, C]`` to ``[B, H / side, W / side, side ** 2 * C]``."""
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return x.transpose(2, 3).flatten(3)


class CrossScaleEmbedding(nn.Module):
    """The first CEL: from an image to tokens, with a LayerNorm after.

    Args:
        in_channels (int): Channels of the image.
        embed_dims (int): Width C of the tokens.
        patch_sizes (Sequence[int]): Kernel sizes. Defaults to (4, 8, 16, 32).
        drop_rate (float): Dropout of the tokens. Defaults to 0.
    """

    stride = 4

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_sizes: Sequence[int] = (4, 8, 16, 32),
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_kernels('patch_sizes', patch_sizes, self.stride, embed_dims)
        # `projs` is the published checkpoints' name.
        self.projs = _ImageConv(in_channels, embed_dims, patch_sizes, self.stride)
        self.norm = nn.LayerNorm(embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, ceil(H / 4), ceil(W / 4), C]``."""
        return self.drop(self.norm(self.projs(x.permute(0, 2, 3, 1))))


class CrossScaleMerging(nn.Module):
    """The CEL between two stages: half the resolution, twice the width.

    Args:
        dim (int): Width C of the incoming tokens.
        merge_sizes (Sequence[int]): Kernel sizes. Defaults to (2, 4).
    """

    stride = 2

    def __init__(self, dim: int, merge_sizes: Sequence[int] = (2, 4)) -> None:
        super().__init__()
        check_kernels('merge_sizes', merge_sizes, self.stride, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        # `reductions` is the published checkpoints' name.
        self.reductions = _CrossScaleConv(dim, 2 * dim, merge_sizes, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), 2 C]``."""
        return self.reductions(self.norm(x))
