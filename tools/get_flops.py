"""Count the multiply-adds of a config's network, part by part.

    python tools/get_flops.py configs/mask_rcnn_crossformer_s_fpn_1x_coco.py \
        --shape 800 1280

One image of that size goes through the network as in a test, and torch's own counter
counts each convolution, matrix product and attention that runs: with the padding that
the groups need, the position bias's MLP and the products of queries, keys and values.
Sums, norms and activations are not counted. Papers call the figure GFLOPs. The counter
of torch 2.1 knows no parts: all is 'elsewhere' there.
"""

import re
from collections import Counter

import rich
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from model_cost import cost_parser, flop_counter, load_config
from rich.table import Table
from torch import nn

# The parts of a CrossFormer, by the names of its modules; the first that fits counts.
PARTS = {
    r'\.(patch_embed|downsample)$': 'CEL: cross-scale embeddings',
    r'\.attn\.pos$': 'DPB: dynamic position bias',
    r'\.attn\.(qkv|proj)$': 'attention: projections',
    r'\.attn$': 'attention: queries x keys, weights x values',
    r'\.mlp$': 'MLP',
    r'\.ex_conv$': 'ACL: amplitude cooling',
}


def main() -> None:
    """Print the table of a config."""
    args = cost_parser(__doc__.splitlines()[0]).parse_args()
    cfg = load_config(args)
    model = MODELS.build(cfg.model).eval()
    parts = count(model, *args.shape)
    parameters = {
        name: sum(p.numel() for p in child.parameters())
        for name, child in model.named_children()
    }
    table = Table(
        'part', title=f'{args.config.name}, {args.shape[0]} x {args.shape[1]}'
    )
    table.add_column('G multiply-adds', justify='right')
    table.add_column('M parameters', justify='right')
    for part, macs in parts.items():
        number = parameters.get(part)
        millions = '' if number is None else f'{number / 1e6:.2f}'
        table.add_row(part, f'{macs / 1e9:.2f}', millions)
    total = sum(parts.values())
    table.add_section()
    table.add_row('all', f'{total / 1e9:.1f}', f'{sum(parameters.values()) / 1e6:.1f}')
    rich.print(table)


@torch.no_grad()
def count(model: nn.Module, height: int, width: int) -> Counter[str]:
    """Count the multiply-adds of one image, per part of the model."""
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    shape = dict(img_shape=(height, width), ori_shape=(height, width))
    sample = BaseDataElement(metainfo=dict(shape, scale_factor=(1.0, 1.0)))
    data = dict(inputs=[image], data_samples=[sample])
    data = model.data_preprocessor(data, False)
    with flop_counter() as counter:
        model(**data, mode='tensor')
    counts = {
        name: sum(operations.values()) // 2  # a multiply-add counts as two there
        for name, operations in counter.get_flop_counts().items()
    }
    root = type(model).__name__
    parts = backbone_parts(counts)
    inside = parts.total()
    for name, child in model.named_children():
        parts[name] = module_count(counts, f'{root}.{name}', child)
    parts['backbone'] -= inside
    parts['elsewhere'] = counts['Global'] - parts.total()
    return Counter({part: macs for part, macs in parts.items() if macs})


def backbone_parts(counts: dict[str, int]) -> Counter[str]:
    """Sum the counts of the modules inside a CrossFormer by ``PARTS``."""
    parts: Counter[str] = Counter()
    for name, macs in counts.items():
        for pattern, part in PARTS.items():
            if re.search(r'\.backbone.*' + pattern, name):
                parts[part] += macs
                break
    # A module's count holds those of the modules inside it.
    inside = parts['DPB: dynamic position bias'] + parts['attention: projections']
    parts['attention: queries x keys, weights x values'] -= inside
    return parts


def module_count(counts: dict[str, int], name: str, module: nn.Module) -> int:
    """Return a module's count; one whose forward is called by name has none itself."""
    if name in counts:
        return counts[name]
    return sum(
        module_count(counts, f'{name}.{child_name}', child)
        for child_name, child in module.named_children()
    )


if __name__ == '__main__':
    main()
