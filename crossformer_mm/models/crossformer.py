"""CrossFormer and CrossFormer++ as MMEngine backbones.

CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention
(ICLR 2022, arXiv 2108.00154) and CrossFormer++ (TPAMI 2023, arXiv 2303.06908).

Differences from the published code:

* Both published forms of long-distance attention are supported (``lda_mode``): the
  detection and segmentation code fixes the interval, CrossFormer++ the group size.
* Any input size works; at multiples of 32 the outputs are the same.
* A forward pass never changes the module. In the published code one small image
  changes the group size for all later images.
"""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops.partition import ceil_div, choose
from .archs import resolve_arch
from .attention import ATTENTIONS
from .checks import check_arguments, check_images, with_original_names
from .embed import EMBEDDINGS, CrossScaleEmbedding, CrossScaleMerging
from .init_cfg import InitCfg, as_list, split_init_cfg
from .mlp import MLP, DropPath, init_linear
from .partition import GroupRule
from .position_bias import POSITION_BIASES

MIN_SIDE = 32  # shorter sides are padded: the last stage has stride 32


class Block(nn.Module):
    """LSDA and MLP with residuals, followed by a cooling layer in CrossFormer++.

    Args:
        dim (int): Width C of the tokens.
        number (int): Index of the block in its stage.
        rule (GroupRule): Divides the maps of the stage into groups.
        with_acl (bool): Whether an amplitude cooling layer (ACL, CrossFormer++
            section 4.2) follows the MLP.
        drop_path_rate (float): Drop rate of both branches (stochastic depth).
        **args: Arguments of :class:`CrossFormer`.
    """

    def __init__(
        self,
        dim: int,
        number: int,
        rule: GroupRule,
        with_acl: bool,
        drop_path_rate: float,
        num_heads: int,
        attention: str,
        position_bias: str,
        mlp_ratio: float,
        drop_rate: float,
        **args: Any,
    ) -> None:
        super().__init__()
        bias = POSITION_BIASES[position_bias](dim, num_heads, rule.group_size)
        args |= dict(dim=dim, num_heads=num_heads, proj_drop_rate=drop_rate)
        self.norm1 = nn.LayerNorm(dim)
        # SDA or LDA: the same attention, in the groups that `grouping` returns.
        self.attn, self.grouping = ATTENTIONS[attention](
            number, rule, position_bias=bias, **args
        )
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop_rate)
        self.with_acl = with_acl
        if with_acl:  # `ex_conv` and `ex_ln` are the published checkpoints' names
            self.ex_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
            self.ex_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H, W, C]``."""
        grouping = self.grouping(*x.shape[1:3])
        x = x + self.drop_path(self.attn(self.norm1(x), grouping))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        if self.with_acl:
            # No residual around it, so that amplitudes do not accumulate.
            x = self.ex_ln(self.ex_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return x


class Stage(nn.Module):
    """Blocks of one resolution, and the merging to the next one.

    Args:
        dim (int): Width C of the tokens.
        drop_path_rates (Sequence[float]): Stochastic depth, one rate per block.
        with_acl (bool): Whether every third block but the last has an ACL.
        merge_sizes (Sequence[int], optional): Kernel sizes of the merging, if any.
        with_cp (bool): Whether to recompute each block's activations in backward.
        **block_args: Further arguments of :class:`Block`.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rates: Sequence[float],
        with_acl: bool,
        merge_sizes: Sequence[int] | None,
        with_cp: bool,
        **block_args: Any,
    ) -> None:
        super().__init__()
        last = len(drop_path_rates) - 1
        self.blocks = nn.ModuleList(
            Block(
                dim,
                number=i,
                drop_path_rate=rate,
                with_acl=with_acl and i % 3 == 2 and i < last,
                **block_args,
            )
            for i, rate in enumerate(drop_path_rates)
        )
        self.downsample = CrossScaleMerging(dim, merge_sizes) if merge_sizes else None
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

    Linear weights are initialized from a truncated normal of std 0.02, as published,
    convolutions as in PyTorch.

    Args:
        arch (str | dict): A key of ``archs.ARCHS`` (T, S, B, L, ppS, ppB, ppL, ppH;
            '++S' is read as 'ppS'), or a dict with ``embed_dims`` (int), ``depths`` and
            ``num_heads`` (one int per stage), and, optionally, the other keys of
            that table. It sets the arguments below that are None. Defaults to 'S'.
        group_size (Sequence[int], optional): Side G of an attention group, per stage.
        crs_interval (Sequence[int], optional): Interval I of long-distance attention,
            per stage.
        adaptive_interval (bool): Whether the interval follows the input, I =
            ceil(max(H, W) / G); only with ``lda_mode='group'``. Defaults to False.
        lda_mode (str, optional): 'interval': a long-distance group spans the whole map,
            ceil(H / I) x ceil(W / I) tokens; 'group': it has G x G tokens, and the cost
            is linear in pixels. Both modes can load the same weights; outputs differ.
        with_acl (bool, optional): Whether every third block ends with an amplitude
            cooling layer.
        in_channels (int): Channels of the image. Defaults to 3.
        patch_sizes (Sequence[int]): Kernel sizes of the first cross-scale embedding.
        merge_sizes (Sequence[Sequence[int]], optional): Kernel sizes of the embedding
            after each stage but the last. Defaults to None: (2, 4) each.
        mlp_ratio (float): Width of the MLP relative to the tokens. Defaults to 4.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Factor of the attention scores. Defaults to None:
            the width of a head to the power of -0.5.
        attention (str): 'lsda'; ``crossformer_mm.ablations`` adds others.
        position_bias (str): 'dpb' or 'none'; ``crossformer_mm.ablations`` adds others.
        drop_rate (float): Dropout of tokens. Defaults to 0.
        attn_drop_rate (float): Dropout of attention weights. Defaults to 0.
        drop_path_rate (float, optional): Stochastic depth of the last block, growing
            linearly from 0 at the first.
        out_indices (Sequence[int]): Stages whose output is returned. Later stages would
            get no gradient and are not built. Defaults to (0, 1, 2, 3).
        frozen_stages (int): -1 freezes nothing, 0 the first embedding, i also the
            stages before stage i. Defaults to -1.
        with_cp (bool): Whether to recompute each block's activations in the backward
            pass: less memory, more time. Defaults to False.
        init_cfg (dict | list[dict] | str, optional): MMEngine's initialization config,
            or the path of a checkpoint.

    The argument names of the original code are accepted too: ``checks.RENAMED``.

    Raises:
        ValueError: If an argument is not allowed.
    """

    @with_original_names
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
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(as_list(init_cfg) if isinstance(init_cfg, str) else init_cfg)
        given: dict[str, Any] = dict(group_size=group_size, crs_interval=crs_interval)
        given |= dict(lda_mode=lda_mode, with_acl=with_acl)
        given |= dict(drop_path_rate=drop_path_rate, merge_sizes=merge_sizes)
        settings = resolve_arch(arch, given)
        block_args = dict(
            attention=attention,
            position_bias=position_bias,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
        )
        check_arguments(
            settings | block_args,
            *(in_channels, out_indices, frozen_stages, adaptive_interval),
        )
        self.arch = arch.replace('++', 'pp') if isinstance(arch, str) else None
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        stages, last = range(len(settings['depths'])), max(out_indices)
        self.depths = settings['depths'][: last + 1]
        self.num_features = [settings['embed_dims'] * 2**i for i in stages]
        self.patch_embed = EMBEDDINGS.get(position_bias, CrossScaleEmbedding)(
            in_channels, self.num_features[0], patch_sizes, drop_rate
        )
        growth = settings['drop_path_rate'] / max(sum(settings['depths']) - 1, 1)
        rates = (growth * i for i in itertools.count())
        self.layers = nn.ModuleList(
            Stage(
                self.num_features[i],
                [next(rates) for _ in range(self.depths[i])],
                rule=GroupRule(
                    settings['group_size'][i],
                    None if adaptive_interval else settings['crs_interval'][i],
                    settings['lda_mode'],
                ),
                num_heads=settings['num_heads'][i],
                with_acl=settings['with_acl'],
                merge_sizes=settings['merge_sizes'][i] if i < last else None,
                with_cp=with_cp,
                **block_args,
            )
            for i in stages[: last + 1]
        )
        self.apply(init_linear)
        self.train()  # sets `frozen_stages`

    def init_weights(self) -> None:
        """Initialize as in ``init_cfg``; pretrained weights must be complete."""
        pretrained, others = split_init_cfg(self.init_cfg)
        # `checkpoint.PretrainedBackbone` is strict. MMEngine runs Pretrained entries
        # last, but does not recognize this name.
        strict = [dict(entry, type='PretrainedBackbone') for entry in pretrained]
        self.init_cfg: InitCfg = others + strict
        super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of a batch of images.

        Args:
            x (Tensor): Images ``[B, 3, H, W]`` of any size; sides shorter than 32 are
                padded with zeros to 32.

        Returns:
            tuple[Tensor]: One map per entry of ``out_indices``; that of stage i is
            ``[B, C * 2**i, ceil(H / (4 * 2**i)), ceil(W / (4 * 2**i))]``.

        Raises:
            ValueError: If the shape of ``x`` is wrong, or there are no images.
        """
        check_images(x, self.in_channels)
        height, width = x.shape[2:]
        bottom, right = (choose(n < MIN_SIDE, MIN_SIDE - n, 0) for n in x.shape[2:])
        x, outs = self.patch_embed(F.pad(x, (0, right, 0, bottom))), []
        for i, stage in enumerate(cast(list[Stage], self.layers)):
            x = stage(x)
            if i in self.out_indices:
                stride = 4 * 2**i
                out = x[:, : ceil_div(height, stride), : ceil_div(width, stride)]
                # mmcv's RoIAlign reads any memory format as NCHW.
                outs.append(out.permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outs)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return a parameter's depth and the number of layers, for MMPretrain.

        The layers are the first embedding, each block, and everything outside the
        backbone, i.e. names without ``prefix``.
        """
        layers = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return layers - 1, layers
        part, *path = param_name.removeprefix(prefix).split('.')
        if part == 'patch_embed':
            return 0, layers
        stage, part, block, *_ = path
        if part == 'downsample':  # as deep as the block before it
            return sum(self.depths[: int(stage) + 1]), layers
        return sum(self.depths[: int(stage)]) + int(block) + 1, layers

    def train(self, mode: bool = True) -> 'CrossFormer':
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        if self.frozen_stages >= 0:
            for module in (self.patch_embed, *self.layers[: self.frozen_stages]):
                module.eval().requires_grad_(False)
        return self
