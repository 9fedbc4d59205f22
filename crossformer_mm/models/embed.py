"""Cross-scale embedding layer (CEL): tokens that mix patches of several sizes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops.partition import ceil_div, pad_map
from .checks import check_kernels


class CrossScaleConv(nn.ModuleList):
    """Convolutions of several kernel sizes around the same centres, concatenated.

    The smallest kernel has half of the channels, each larger one half of the channels
    of the kernel before it, and the two largest the same (CrossFormer section 3.1).

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
            channels = out_channels // 2 ** min(i, len(kernel_sizes) - 1)
            padding = (kernel_size - stride) // 2
            self.append(nn.Conv2d(in_channels, channels, kernel_size, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H', W', C']``, H' = ceil(H / stride)."""
        # A side that is not a multiple of the stride is padded with zeros.
        missing = (ceil_div(n, self.stride) * self.stride - n for n in x.shape[1:3])
        x = pad_map(x, *missing).permute(0, 3, 1, 2)
        return torch.cat([conv(x) for conv in self], dim=1).permute(0, 2, 3, 1)


class CrossScaleEmbedding(nn.Module):
    """The first CEL: from an image to tokens, followed by a LayerNorm.

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
        self.projs = CrossScaleConv(in_channels, embed_dims, patch_sizes, self.stride)
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
        self.reductions = CrossScaleConv(dim, 2 * dim, merge_sizes, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), 2 C]``."""
        return self.reductions(self.norm(x))


# Replacements of the first CEL by the argument `position_bias`; filled by `ablations`.
EMBEDDINGS: dict[str, type[CrossScaleEmbedding]] = {}
