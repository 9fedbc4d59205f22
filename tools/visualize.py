"""Plot the attention, embedding and features of a CrossFormer.

    python tools/visualize.py IMAGE --config C --checkpoint F --pixel 120 80

Writes to the folder OUT, for the token under the pixel and one block of the network:

    groups.png         the tokens in its group, at short and at long distance
    attention.png      its attention weights, per head
    embedding.png      the pixels covered by each kernel of its embedding
    position_bias.png  the position bias over the offsets, per head
    features.png       the feature maps of all stages
    attention.html     an interactive page: attention of every token, block and head

C is a config of a detector, segmentor or classifier with a CrossFormer, or the name of
a backbone, such as CrossFormer_S. F is a checkpoint in any format that the backbone
loads. Hooks record the attention; the network itself is unchanged.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from torch import Tensor

from crossformer_mm import CrossFormer
from crossformer_mm.attention_record import record_attention
from crossformer_mm.checkpoint import CheckpointError, PretrainedBackbone
from parts.attention_page import LIMIT, page_size, write_page
from parts.attention_plots import (
    plot_attention,
    plot_embedding,
    plot_features,
    plot_groups,
    plot_position_bias,
)
from parts.output import fail, save_figure

# The normalization that the published weights were trained with.
IMAGENET = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
)


def main() -> None:
    """Run the network once, save the plots and write the page."""
    args = parse_args()
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options or {})
    backbone = build_backbone(config, args.checkpoint)
    image = read_image(args.image, args.size)
    height, width = image.shape[:2]
    col, row = args.pixel or (width // 2, height // 2)
    if not (0 <= col < width and 0 <= row < height):
        fail(
            f'--pixel {col} {row} is outside of the image, which is {width} x {height} '
            f'with --size {args.size}'
        )
    with record_attention(backbone) as records, torch.no_grad():
        outputs = backbone(normalize(image, config))
    stage, block = find_block(records, args.stage, args.block)
    cell = backbone.patch_embed.stride * 2**stage
    token = row // cell, col // cell
    record, pair = records[stage][block], records[stage][:2]

    args.out.mkdir(parents=True, exist_ok=True)
    where = f'stage {stage + 1}, block {block + 1}'
    pictures = {
        'groups': plot_groups(image, pair, token),
        'attention': plot_attention(image, record, token, where),
        'embedding': plot_embedding(image, backbone.patch_embed, (row, col)),
        'features': plot_features(image, outputs, backbone.out_indices),
    }
    if record.position_bias() is not None:
        pictures['position_bias'] = plot_position_bias(record, where)
    for name, figure in pictures.items():
        print(save_figure(figure, args.out / f'{name}.png'))
    if (size := page_size(records)) > LIMIT:
        print(
            f'attention.html would hold {size / 1e6:.0f} MB and is left out: '
            'take a smaller --size'
        )
    else:
        print(write_page(args.out / 'attention.html', args.image.name, image, records))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('image', metavar='IMAGE', type=Path)
    parser.add_argument('--config', metavar='C', type=Path, required=True)
    parser.add_argument(
        '--checkpoint', metavar='F', type=Path, help='(default: random weights)'
    )
    parser.add_argument(
        '--size',
        type=positive,
        default=320,
        help='longer side that the image is scaled to, in pixels (default: 320)',
    )
    parser.add_argument(
        '--pixel',
        metavar=('X', 'Y'),
        type=int,
        nargs=2,
        help='in the scaled image, from its upper left corner (default: its centre)',
    )
    parser.add_argument(
        '--stage', type=positive, default=1, help='counted from 1 (default: 1)'
    )
    parser.add_argument(
        '--block',
        type=positive,
        help='counted from 1; odd blocks do short-distance attention, even blocks '
        'long-distance attention (default: 2, or 1 in a stage of one block)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config, such as model.backbone.lda_mode=group',
    )
    parser.add_argument('--out', type=Path, default=Path('visualization'))
    return parser.parse_args()


def positive(text: str) -> int:
    """Parse a positive integer."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{number} is not positive')
    return number


def read_config(path: Path) -> Config:
    """Read a config with a backbone, or make one from a backbone's name."""
    if path.name.startswith('CrossFormer') and not path.suffix:
        backbone = dict(type=path.name)
        return Config(dict(model=dict(backbone=backbone, data_preprocessor=IMAGENET)))
    if not path.is_file():
        fail(f'{path} is missing')
    config = Config.fromfile(path)
    if 'backbone' not in config.get('model', {}):
        fail(f'{path} has no model with a backbone')
    return config


def build_backbone(config: Config, checkpoint: Path | None) -> CrossFormer:
    """Build the config's backbone and load the checkpoint, if any."""
    backbone = MODELS.build(dict(config.model.backbone, init_cfg=None))
    if not isinstance(backbone, CrossFormer):
        fail(f'the backbone is a {type(backbone).__name__}, not a CrossFormer')
    if checkpoint is None:
        print('The weights are random: no --checkpoint is given.')
        return backbone.eval()
    try:
        PretrainedBackbone(str(checkpoint))(backbone)
    except CheckpointError as error:
        fail(str(error))
    return backbone.eval()


def read_image(path: Path, size: int) -> np.ndarray:
    """Read an image and scale its longer side: RGB, ``[H, W, 3]``."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        fail(f'{path} is missing or no image')
    scale = size / max(image.shape[:2])
    width, height = (max(32, round(side * scale)) for side in image.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)[..., ::-1].copy()


def normalize(image: np.ndarray, config: Config) -> Tensor:
    """Return the network's input for an RGB image: ``[1, 3, H, W]``."""
    settings = config.model.get('data_preprocessor') or config.data_preprocessor
    # MMPretrain's name is to_rgb.
    if not (settings.get('bgr_to_rgb') or settings.get('to_rgb')):
        image = image[..., ::-1]
    mean, std = (np.array(settings[key], dtype=np.float32) for key in ('mean', 'std'))
    return torch.from_numpy((image - mean) / std).permute(2, 0, 1)[None]


def find_block(records: list[list], stage: int, block: int | None) -> tuple[int, int]:
    """Convert the numbers on the command line to indices and check them."""
    if stage > len(records):
        fail(f'--stage {stage}: the backbone has {len(records)} stages')
    blocks = len(records[stage - 1])
    block = min(2, blocks) if block is None else block
    if block > blocks:
        fail(f'--block {block}: stage {stage} has {blocks} blocks')
    return stage - 1, block - 1


if __name__ == '__main__':
    main()
