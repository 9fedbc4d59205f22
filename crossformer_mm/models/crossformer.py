"""CrossFormer and CrossFormer++ as MMEngine backbones.

CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention
(ICLR 2022, arXiv 2108.00154) and CrossFormer++ (TPAMI 2023, arXiv 2303.06908).

Where this code deviates from the published one, and why:

* Both published meanings of long-distance attention are there (``lda_mode``): the
  detection and segmentation code fixes the interval, CrossFormer++ the group size.
* Any input of at least 32 x 32 works; at multiples of 32 the outputs are the same.
* A forward pass never changes the module. There, one small image shrank the group
  size for all images after it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoint.pretrained import with_whole_backbone
from .ablations import (
    ATTENTIONS,
    POSITION_BIASES,
    Attending,
    PositionedEmbedding,
    attentions,
    position_biases,
)
from .checks import check_choice, check_positive, check_rate, check_subset
from .convolution import Conv2d
from .embed import CrossScaleEmbedding, CrossScaleMerging
from .layers import MLP, DropPath
from .partition import lda_grouping, sda_grouping
from .zoo import resolve_arch

MIN_INPUT_SIZE = 32


class Block(nn.Module):
    """LSDA, then MLP, each with a residual; in CrossFormer++ a cooling layer after.

    Args:
        dim (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        attending (tuple[Callable, Callable]): The class of the attention, and from
            (height, width) of a map to its ``Grouping``: what makes the block a short-
            or a long-distance one.
        mlp_ratio (float): Width of the MLP relative to C. Defaults to 4.
        drop_rate (float): Dropout of the attention's output and in the MLP.
            Defaults to 0.
        drop_path_rate (float): Stochastic depth of both branches. Defaults to 0.
        with_acl (bool): Whether an amplitude cooling layer (ACL, CrossFormer++
            section 4.2) ends the block. Defaults to False.
        **attn_args: Further arguments of :class:`GroupAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attending: Attending,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_acl: bool = False,
        **attn_args: Any,
    ) -> None:
        super().__init__()
        attention, self.grouping = attending
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention(dim, num_heads, proj_drop_rate=drop_rate, **attn_args)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop_rate)
        self.with_acl = with_acl
        if with_acl:
            # `ex_conv` and `ex_ln` are the published checkpoints' names of the ACL.
            self.ex_conv = Conv2d(dim, dim, 3, padding=1, groups=dim)
            self.ex_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H, W, C]``."""
        grouping = self.grouping(*x.shape[1:3])
        x = x + self.drop_path(self.attn(self.norm1(x), grouping))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        if self.with_acl:
            # No residual around it: the amplitude of the tokens starts anew.
            x = self.ex_ln(self.ex_conv(x))
        return x


class Stage(nn.Module):
    """Blocks of one resolution, and the merging to the next one.

    Args:
        dim (int): Width C of the tokens.
        drop_path_rates (Sequence[float]): Stochastic depth, one rate per block.
        attending (tuple): How the blocks 0, 2, 4, ... attend, and how 1, 3, 5, ... do.
        with_acl (bool): Whether every third block but the last has an ACL.
        downsample (nn.Module, optional): The merging; None in the last stage.
        with_cp (bool): Whether to recompute each block's activations in the
            backward pass instead of keeping them.
        **block_args: Further arguments of :class:`Block`.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rates: Sequence[float],
        attending: tuple[Attending, Attending],
        with_acl: bool,
        downsample: nn.Module | None,
        with_cp: bool,
        **block_args: Any,
    ) -> None:
        super().__init__()
        last = len(drop_path_rates) - 1
        self.blocks = nn.ModuleList(
            Block(
                dim,
                attending=attending[i % 2],
                drop_path_rate=rate,
                with_acl=with_acl and i % 3 == 2 and i < last,
                **block_args,
            )
            for i, rate in enumerate(drop_path_rates)
        )
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H, W, C]``, before the merging."""
        for block in self.blocks:
            if self.with_cp and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


@MODELS.register_module(force=True)
class CrossFormer(BaseModule):
    """CrossFormer backbone: a pyramid of feature maps at strides 4, 8, 16 and 32.

    The weights of Linear layers start from a truncated normal of std 0.02, as
    published; convolutions start as in PyTorch.

    Args:
        arch (str | dict): A key of ``zoo.ARCHS`` (T, S, B, L, ppS, ppB, ppL, ppH;
            '++S' is read as 'ppS'), or a dict with ``embed_dims`` (int), ``depths``
            and ``num_heads`` (one int per stage), and, optionally, defaults for
            ``drop_path_rate``, ``with_acl``, ``lda_mode``, ``group_size`` and
            ``crs_interval``. Defaults to 'S'.
        group_size (Sequence[int], optional): Side G of an attention group, per
            stage. Defaults to None: the architecture's.
        crs_interval (Sequence[int], optional): Interval I of long-distance
            attention, per stage. Defaults to None: the architecture's.
        adaptive_interval (bool): Whether the interval follows the input,
            I = ceil(max(H, W) / G); only with ``lda_mode='group'``. Defaults to
            False.
        lda_mode (str, optional): 'interval', where a long-distance group spans the
            whole map, ceil(H / I) x ceil(W / I) tokens, or 'group', where it has
            G x G tokens and cost stays linear in pixels. Weights fit both, outputs
            differ. Defaults to None: 'interval' for CrossFormer, 'group' for
            CrossFormer++, as published.
        with_acl (bool, optional): Whether every third block ends with an amplitude
            cooling layer. Defaults to None: the architecture's.
        in_channels (int): Channels of the image. Defaults to 3.
        patch_sizes (Sequence[int]): Kernel sizes of the first cross-scale
            embedding. Defaults to (4, 8, 16, 32).
        merge_sizes (Sequence[Sequence[int]], optional): Kernel sizes of the
            embedding after each stage but the last. Defaults to None: (2, 4) each.
        mlp_ratio (float): Width of the MLP relative to the tokens'. Defaults to 4.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Factor of the attention scores. Defaults to
            None: the square root of a head's width, inverted.
        attention (str): 'lsda', or what the paper's ablations put in its place: 'sda'
            or 'lda' alone, 'shifted' windows as in Swin, spatial 'reduction' as in PVT.
            Defaults to 'lsda'.
        position_bias (str): 'dpb', or what the paper's ablations put in its place:
            'dpb_residual', a learned table 'rpb' as in Swin, an absolute embedding
            'ape', or 'none'. Defaults to 'dpb'.
        drop_rate (float): Dropout of tokens. Defaults to 0.
        attn_drop_rate (float): Dropout of attention weights. Defaults to 0.
        drop_path_rate (float, optional): Stochastic depth of the last block; it
            grows linearly from 0 at the first. Defaults to None: the
            architecture's.
        out_indices (Sequence[int]): Stages whose output is returned; stages after
            the last of them are not built. Defaults to (0, 1, 2, 3).
        frozen_stages (int): Stages to freeze: 0 is the first embedding, i the
            stages before i as well; -1 freezes nothing. Defaults to -1.
        with_cp (bool): Whether to recompute each block's activations in the
            backward pass: less memory, more time. Defaults to False.
        init_cfg (dict | list[dict], optional): MMEngine's initialization config;
            ``type='Pretrained'`` is read by
            :class:`~crossformer_mm.checkpoint.pretrained.PretrainedBackbone`.
            Defaults to None.

    Raises:
        ValueError: If an argument is none of what is allowed.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] = 'S',
        group_size: Sequence[int] | None = None,
        crs_interval: Sequence[int] | None = None,
        adaptive_interval: bool = False,
        lda_mode: str | None = None,
        with_acl: bool | None = None,
        in_channels: int = 3,
        patch_sizes: Sequence[int] = (4, 8, 16, 32),
        merge_sizes: Sequence[Sequence[int]] | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attention: str = 'lsda',
        position_bias: str = 'dpb',
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        settings = resolve_arch(
            arch,
            group_size=group_size,
            crs_interval=crs_interval,
            lda_mode=lda_mode,
            with_acl=with_acl,
            drop_path_rate=drop_path_rate,
        )
        depths, lda_mode = settings['depths'], settings['lda_mode']
        stages = len(depths)
        merge_sizes = ((2, 4),) * (stages - 1) if merge_sizes is None else merge_sizes
        if len(merge_sizes) != stages - 1:
            raise ValueError(
                f'merge_sizes must have {stages - 1} entries, one between two stages, '
                f'got {len(merge_sizes)}: {merge_sizes!r}.'
            )
        if adaptive_interval and lda_mode == 'interval':
            raise ValueError(
                "adaptive_interval=True needs lda_mode='group': under "
                "lda_mode='interval' the interval is fixed by definition."
            )
        check_subset('out_indices', out_indices, range(stages))
        check_choice('frozen_stages', frozen_stages, range(-1, stages + 1))
        check_choice('attention', attention, ATTENTIONS)
        check_choice('position_bias', position_bias, POSITION_BIASES)
        if attention == 'reduction' and position_bias not in ('ape', 'none'):
            raise ValueError(
                f"attention='reduction' has no groups and so no offsets in them, got "
                f"position_bias={position_bias!r}: take 'ape' or 'none'."
            )
        check_positive('in_channels', in_channels)
        check_positive('mlp_ratio', mlp_ratio)
        check_rate('drop_rate', drop_rate)
        check_rate('attn_drop_rate', attn_drop_rate)

        self.arch = arch.replace('++', 'pp') if isinstance(arch, str) else None
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        # Width of each stage, under the name that timm and mmpretrain give it.
        self.num_features = [settings['embed_dims'] * 2**i for i in range(stages)]

        embedding = (
            PositionedEmbedding if position_bias == 'ape' else CrossScaleEmbedding
        )
        self.patch_embed = embedding(
            in_channels, self.num_features[0], patch_sizes, drop_rate
        )
        # These are numbers, wanted on the meta device too.
        drop_path_rates = torch.linspace(
            0, settings['drop_path_rate'], sum(depths), device='cpu'
        ).split(list(depths))
        # Stages after the last output would hold parameters without a gradient,
        # which breaks distributed training.
        last = max(self.out_indices)
        self.layers = nn.ModuleList()
        for i, dim in enumerate(self.num_features[: last + 1]):
            group_size, interval = (
                settings['group_size'][i],
                settings['crs_interval'][i],
            )
            heads = settings['num_heads'][i]
            group = dict(group_size=group_size, lda_mode=lda_mode)
            lda = dict(group, interval=None if adaptive_interval else interval)
            stage = Stage(
                dim,
                drop_path_rates[i].tolist(),
                attentions(
                    attention,
                    sda=partial(sda_grouping, **group),
                    lda=partial(lda_grouping, **lda),
                    interval=interval,
                ),
                with_acl=settings['with_acl'],
                downsample=CrossScaleMerging(dim, merge_sizes[i]) if i < last else None,
                with_cp=with_cp,
                num_heads=heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                position_bias=position_biases(position_bias, dim, heads, group_size),
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
            )
            self.layers.append(stage)
        self.apply(_init_linear)
        self._freeze_stages()

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; pretrained weights must be whole."""
        self.init_cfg = with_whole_backbone(self.init_cfg)
        super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of a batch of images.

        Args:
            x (Tensor): Images ``[B, 3, H, W]``, H and W at least 32.

        Returns:
            tuple[Tensor]: Per entry i of ``out_indices`` a map ``[B, C * 2 ** i,
            ceil(H / (4 * 2 ** i)), ceil(W / (4 * 2 ** i))]``.

        Raises:
            ValueError: If the images have other channels or are smaller.
        """
        self._check_input(x)
        x = self.patch_embed(x)
        outs = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self.out_indices:
                # mmcv's RoIAlign reads memory as NCHW, whatever the strides say, and
                # convolutions hand a channels-last layout on to it.
                outs.append(x.permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outs)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'The input must be [B, {self.in_channels}, H, W] '
                f'(in_channels={self.in_channels}), got {list(x.shape)}.'
            )
        if min(x.shape[2:]) < MIN_INPUT_SIZE:
            raise ValueError(
                f'The input must be at least {MIN_INPUT_SIZE} x {MIN_INPUT_SIZE} '
                f'pixels, got {x.shape[2]} x {x.shape[3]}.'
            )

    def layer_depth(self, name: str) -> int:
        """Tell how deep a parameter is: 0 in the first embedding, then block by block.

        Args:
            name (str): Name of the parameter within the backbone. The embedding
                between two stages has the depth of the block before it.
        """
        if name.startswith('patch_embed.'):
            return 0
        _, stage, part, block, *_ = name.split('.')
        before = sum(len(layer.blocks) for layer in self.layers[: int(stage)])
        if part == 'downsample':
            return before + len(self.layers[int(stage)].blocks)
        return before + int(block) + 1

    def train(self, mode: bool = True) -> 'CrossFormer':
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.patch_embed, *self.layers[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
