"""Counted multiply-adds, compared with manual sums."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from crossformer_mm import CrossFormer
from tests.helpers import ROOT

TOOLS = ROOT / 'tools'
DEPTHS, WIDTH, HEADS = (2, 2), 32, (2, 4)


class Segmentor(nn.Module):
    """A minimal model for the tool: a backbone, a head and mode='tensor'."""

    def __init__(self, **kwargs):
        super().__init__()
        arch = dict(embed_dims=WIDTH, depths=DEPTHS, num_heads=HEADS)
        self.backbone = CrossFormer(arch, out_indices=(0, 1), **kwargs)
        self.decode_head = nn.Sequential(nn.Conv2d(2 * WIDTH, 5, 1))

    def data_preprocessor(self, data, training):
        return dict(inputs=data['inputs'][0][None].float())

    def forward(self, inputs, mode):
        assert mode == 'tensor'
        return self.decode_head.forward(self.backbone(inputs)[-1])


@pytest.fixture
def count(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from get_flops import count

    return count


@pytest.mark.parametrize(
    ('size', 'tokens', 'sda', 'lda'),
    [
        # Tokens of each stage, then groups and tokens per group of each block.
        ((112, 112), (784, 196), ((16, 49), (4, 49)), ((16, 49), (4, 49))),
        # 16 x 16 tokens are padded to 21 x 21 for SDA; 16 / 4 and 8 / 2 fit LDA.
        ((64, 64), (256, 64), ((9, 49), (4, 49)), ((16, 16), (4, 16))),
    ],
)
def test_parts(count, size, tokens, sda, lda):
    parts = count(Segmentor(group_size=(7, 7), crs_interval=(4, 2)), *size)
    widths = (WIDTH, 2 * WIDTH)
    attention = sum(
        2 * groups * n**2 * width
        for blocks in (sda, lda)
        for width, (groups, n) in zip(widths, blocks)
    )
    assert parts['attention: queries x keys, weights x values'] == attention
    projections = sum(2 * 4 * n * width**2 for n, width in zip(tokens, widths))
    assert parts['attention: projections'] == projections
    mlp = sum(2 * 8 * n * width**2 for n, width in zip(tokens, widths))
    assert parts['MLP'] == mlp
    kernels = ((4, WIDTH // 2), (8, WIDTH // 4), (16, WIDTH // 8), (32, WIDTH // 8))
    embedding = tokens[0] * sum(3 * kernel**2 * width for kernel, width in kernels)
    merging = tokens[1] * (2**2 + 4**2) * WIDTH * WIDTH
    assert parts['CEL: cross-scale embeddings'] == embedding + merging
    bias = 0
    for width, heads, *blocks in zip(widths, HEADS, sda, lda):
        hidden = width // 16
        for _, n in blocks:
            offsets = (2 * round(n**0.5) - 1) ** 2
            bias += offsets * hidden * (2 + hidden + hidden + heads)
    assert parts['DPB: dynamic position bias'] == bias
    assert parts['decode_head'] == tokens[1] * 2 * WIDTH * 5
    assert parts['elsewhere'] == parts['backbone'] == 0


def test_module_called_inside_another_part_counts_once(count):
    """DINO's decoder calls the layers of its head."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Linear(8, 8)

        def forward(self, x, branch):
            return branch(self.own(x))

    class Detector(Segmentor):
        def __init__(self):
            nn.Module.__init__(self)
            self.decoder = Decoder()
            self.bbox_head = nn.ModuleList([nn.Linear(8, 4)])
            self.level_embed = nn.Parameter(torch.zeros(4, 8))

        def forward(self, inputs, mode):
            x = torch.zeros(10, 8)
            return self.decoder(x, self.bbox_head[0]) @ torch.zeros(4, 2)

    model = Detector()
    parts = count(model, 32, 32)
    assert parts == {'decoder': 640, 'bbox_head': 320, 'elsewhere': 80}
    from get_flops import count_parameters

    parameters = {'decoder': 72, 'bbox_head': 36, 'elsewhere': 32}
    assert count_parameters(model) == parameters


def test_each_part_has_its_parameters(count):
    from get_flops import PARTS, count_parameters

    model = Segmentor(group_size=(7, 7), crs_interval=(4, 2))
    parameters = count_parameters(model)
    assert parameters.total() == sum(p.numel() for p in model.parameters())
    block = model.backbone.layers[0].blocks[0]
    assert parameters['MLP'] > sum(p.numel() for p in block.mlp.parameters()) > 0
    counted = {*PARTS.values()} - {'attention: queries x keys, weights x values'}
    counted -= {'ACL: amplitude cooling'}
    assert all(parameters[part] for part in counted)
    # Only the norms are counted as 'backbone'.
    assert 0 < parameters['backbone'] < 0.05 * parameters.total()


@pytest.mark.slow
def test_published_figure():
    config = ROOT / 'configs' / 'retinanet_crossformer_s_fpn_1x_coco.py'
    command = [sys.executable, TOOLS / 'get_flops.py', config, '--shape', '1280', '800']
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    total, parameters = re.search(
        r'all\s+│\s+([\d.]+)\s+│\s+([\d.]+)', output.stdout
    ).groups()
    assert parameters == '40.8'
    assert float(total) == pytest.approx(282.0, rel=0.02)


def test_mmengine_counts_the_same(count):
    """The tools of mmdet and mmseg use the same function, which records a trace."""
    from mmengine.analysis import get_model_complexity_info

    from parts.model_cost import flop_counter

    model = CrossFormer('T').eval()
    side = 224
    counted = get_model_complexity_info(
        model, (3, side, side), show_table=False, show_arch=False
    )
    with torch.no_grad(), flop_counter() as counter:
        model(torch.rand(1, 3, side, side))
    # MMEngine also counts norms.
    assert counted['flops'] == pytest.approx(counter.get_total_flops() / 2, rel=0.02)
