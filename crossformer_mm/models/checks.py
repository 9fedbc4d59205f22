"""Checks of arguments; errors name the argument, its value and allowed values."""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from torch import Tensor

from .attention import ATTENTIONS
from .partition import LDA_MODES
from .position_bias import POSITION_BIASES

# Argument names of the original code, and the names here.
RENAMED = {
    'in_chans': 'in_channels',
    'patch_size': 'patch_sizes',
    'merge_size': 'merge_sizes',
    'use_checkpoint': 'with_cp',
    'pretrained': 'init_cfg',
}
# Arguments of the original code that do not exist here.
_ARCH = 'take arch=dict(embed_dims=..., depths=..., num_heads=...)'
REMOVED = dict.fromkeys(('embed_dim', 'depths', 'num_heads'), _ARCH)
REMOVED |= {
    'ape': "take position_bias='ape'",
    'img_size': 'any size of image works, remove it',
    'norm_layer': 'it is always LayerNorm, remove it',
    'num_classes': 'it is an argument of the head, remove it here',
    'patch_norm': 'the first embedding always has its norm, remove it',
}


def with_original_names(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor accept the argument names of the original code."""

    @wraps(init)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in REMOVED.keys() & kwargs:
            raise ValueError(f'CrossFormer has no argument {name}: {REMOVED[name]}.')
        for old in RENAMED.keys() & kwargs:
            value, new = kwargs.pop(old), RENAMED[old]
            if value is not None and kwargs.get(new) is not None:
                raise ValueError(f'{old} is an older name of {new}: give {new} only.')
            if value is not None:
                kwargs[new] = value
        init(self, *args, **kwargs)

    return call


def check_arguments(
    args: dict[str, Any],
    in_channels: int,
    out_indices: Sequence[int],
    frozen_stages: int,
    adaptive_interval: bool,
) -> None:
    """Check the arguments of a backbone; ``args`` are those shared by its blocks.

    Raises:
        ValueError: If one is not allowed, or does not fit the others.
    """
    check_ints('depths', args['depths'])
    stages = range(len(args['depths']))
    for name in ('num_heads', 'group_size', 'crs_interval'):
        check_ints(name, args[name], len(stages))
    for name in ('drop_rate', 'attn_drop_rate', 'drop_path_rate'):
        if not isinstance(args[name], int | float) or not 0 <= args[name] < 1:
            raise ValueError(f'{name} must be a number in [0, 1), got {args[name]!r}.')
    positive = dict(in_channels=in_channels, mlp_ratio=args['mlp_ratio'])
    for name, value in positive.items():
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f'{name} must be a number above 0, got {value!r}.')
    if not out_indices or not set(out_indices) <= set(stages):
        allowed = f'one or more of {list(stages)}'
        raise ValueError(f'out_indices must hold {allowed}, got {out_indices!r}.')
    check_choice('frozen_stages', frozen_stages, range(-1, len(stages) + 1))
    check_choice('lda_mode', args['lda_mode'], LDA_MODES)
    ablations = "; others are there once custom_imports has 'crossformer_mm.ablations'"
    check_choice('attention', args['attention'], ATTENTIONS, ablations)
    check_choice('position_bias', args['position_bias'], POSITION_BIASES, ablations)
    if adaptive_interval and args['lda_mode'] == 'interval':
        why = "under lda_mode='interval' the interval is fixed by definition"
        raise ValueError(f"adaptive_interval=True needs lda_mode='group': {why}.")
    if len(args['merge_sizes']) != len(stages) - 1:
        wanted = f'{len(stages) - 1} entries, one between two stages'
        got = f'{len(args["merge_sizes"])}: {args["merge_sizes"]!r}'
        raise ValueError(f'merge_sizes must have {wanted}, got {got}.')
    dims, wanted = args['embed_dims'], 'an even whole number >= 16'
    if not isinstance(dims, int) or dims < 16 or dims % 2:
        why = 'the position bias is embed_dims // 16 wide'
        raise ValueError(f'embed_dims must be {wanted} ({why}), got {dims!r}.')
    for i, heads in enumerate(args['num_heads']):
        if dims * 2**i % heads:
            width = f'the width of stage {i}, {dims * 2**i} (embed_dims={dims})'
            raise ValueError(f'num_heads[{i}]={heads} does not divide {width}.')


def check_images(x: Tensor, in_channels: int) -> None:
    """Check a batch of images.

    Raises:
        ValueError: If it is not ``[B, in_channels, H, W]``, or empty.
    """
    shape = list(x.shape)
    if len(shape) != 4 or shape[1] != in_channels:
        wanted = f'[B, {in_channels}, H, W] (in_channels={in_channels})'
        raise ValueError(f'The input must be {wanted}, got {shape}.')
    if 0 in shape:
        raise ValueError(f'The input holds no image: its shape is {shape}.')


def check_ints(name: str, value: Sequence[int], length: int | None = None) -> None:
    """Check that ``value`` holds ``length`` whole numbers of at least 1."""
    if not isinstance(value, Sequence) or not all(
        isinstance(v, int) and v >= 1 for v in value
    ):
        raise ValueError(f'{name} must be a list of whole numbers >= 1, got {value!r}.')
    if len(value) == 0 or length not in (None, len(value)):
        wanted = f'{length or "at least 1"} entries, one per stage'
        raise ValueError(f'{name} must have {wanted}, got {len(value)}: {value!r}.')


def check_choice(
    name: str, value: object, allowed: Iterable[object], more: str = ''
) -> None:
    """Check that ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f'{name} must be one of {list(allowed)}, got {value!r}{more}.')


def check_kernels(name: str, value: Sequence[int], stride: int, width: int) -> None:
    """Check that kernels are centred on tokens, and that the width can be divided."""
    check_ints(name, value)
    if any(k < stride or (k - stride) % 2 for k in value):
        wanted = f'{stride} or larger by a multiple of 2 (the stride is {stride})'
        raise ValueError(f'{name} must hold {wanted}, got {value!r}.')
    if width % 2 ** (len(value) - 1):
        why = f'cannot share {width} channels as a half, a quarter, ...'
        raise ValueError(f'{name}={value!r} does not fit: {len(value)} sizes {why}.')
