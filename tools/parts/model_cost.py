"""Load a config and count operations, for the commands that measure costs."""

import argparse
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import crossformer_mm  # noqa: F401 - registers the backbones

# The CPU kernel, which torch's counter does not support; torch 2.1 has no such kernel.
CPU_ATTENTION = '_scaled_dot_product_flash_attention_for_cpu'


def cost_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser for CONFIG, the image size and changes of the config."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        required=True,
        metavar=('H', 'W'),
        help='height and width of the image in pixels',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help="change the config, such as model.backbone.lda_mode='group'",
    )
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Load the config, apply its changes and enter its scope."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope(cfg.default_scope)
    return cfg


def flop_counter() -> FlopCounterMode:
    """Return torch's FLOP counter, extended by attention on a CPU."""
    kernel = getattr(torch.ops.aten, CPU_ATTENTION, None)
    mapping = {kernel: attention_flops} if kernel else {}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """Return the FLOPs of attention from the shapes of its arguments."""
    return sdpa_flop_count(query, key, value)
