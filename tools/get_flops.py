"""Count the multiply-adds of a config's network, part by part.

    python tools/get_flops.py configs/mask_rcnn_crossformer_s_fpn_1x_coco.py \
        --shape 800 1280

The network runs on one image of that size in test mode, and torch's FLOP counter counts
each convolution, matrix product and attention. This includes the padding of the groups,
the MLP of the position bias and the products of queries, keys and values. Sums, norms
and activations are not counted. Papers call this number GFLOPs.
"""

import re
from collections import Counter
from functools import partial

import rich
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from parts.model_cost import cost_parser, flop_counter, load_config

# The parts of a CrossFormer, by patterns of module names; the first match counts.
PARTS = {
    r'\.(patch_embed|downsample)\b': 'CEL: cross-scale embeddings',
    r'\.attn\.pos\b': 'DPB: dynamic position bias',
    r'\.attn\.(qkv|proj)\b': 'attention: projections',
    r'\.attn\b': 'attention: queries x keys, weights x values',
    r'\.mlp\b': 'MLP',
    r'\.ex_conv\b': 'ACL: amplitude cooling',
}


def main() -> None:
    """Print the table for a config."""
    args = cost_parser(__doc__.splitlines()[0]).parse_args()
    cfg = load_config(args)
    model = MODELS.build(cfg.model).eval()
    macs = count(model, *args.shape)
    parameters = count_parameters(model)
    table = Table(
        'part', title=f'{args.config.name}, {args.shape[0]} x {args.shape[1]}'
    )
    table.add_column('G multiply-adds', justify='right')
    table.add_column('M parameters', justify='right')
    for part in parameters | macs:  # in the order of the network
        table.add_row(part, f'{macs[part] / 1e9:.2f}', f'{parameters[part] / 1e6:.2f}')
    table.add_section()
    table.add_row('all', f'{macs.total() / 1e9:.1f}', f'{parameters.total() / 1e6:.1f}')
    rich.print(table)


@torch.no_grad()
def count(model: nn.Module, height: int, width: int) -> Counter[str]:
    """Count the multiply-adds of one image, per part of the model."""
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    shape = dict(img_shape=(height, width), ori_shape=(height, width))
    sample = BaseDataElement(metainfo=dict(shape, scale_factor=(1.0, 1.0)))
    data = dict(inputs=[image], data_samples=[sample])
    data = model.data_preprocessor(data, False)
    macs: Counter[str] = Counter()
    inside = ['']  # stack of the names of the running modules
    hooks = []

    def count_for_innermost(counter: FlopCounterMode) -> None:
        """Attribute the operations since the last call to the innermost module."""
        # torch counts a multiply-add as two operations.
        macs[part_of(inside[-1])] += counter.get_total_flops() // 2 - macs.total()

    with flop_counter() as counter:

        def enter(name: str, *_: object) -> None:
            count_for_innermost(counter)
            inside.append(name)

        def leave(*_: object) -> None:
            count_for_innermost(counter)
            inside.pop()

        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(partial(enter, name)))
            hooks.append(module.register_forward_hook(leave))
        model(**data, mode='tensor')
        count_for_innermost(counter)
    for hook in hooks:
        hook.remove()
    return +macs  # without zeros


def count_parameters(model: nn.Module) -> Counter[str]:
    """Count the parameters of each part of the model."""
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[part_of(name.rpartition('.')[0])] += parameter.numel()
    return parameters


def part_of(name: str) -> str:
    """Return the part that a module belongs to, by its name."""
    if name.startswith('backbone.'):
        for pattern, part in PARTS.items():
            if re.search(pattern, name):
                return part
    return name.partition('.')[0] or 'elsewhere'


if __name__ == '__main__':
    main()
