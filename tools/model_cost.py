"""What the tools that tell the cost of a config's network share."""

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import crossformer_mm  # noqa: F401 - registers the backbones


def cost_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser of CONFIG, the size of the image and changes of the config."""
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
    """Read the config with its changes and enter its scope."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope(cfg.default_scope)
    return cfg
