"""Export a detector or segmentor to an ONNX file for images of any size.

    python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx

Segmentors of MMSegmentation output labels, and class scores with --scores. RetinaNet,
ATSS, FCOS and other heads with the same test path output boxes, scores and labels; Mask
R-CNN and Cascade Mask R-CNN also output masks, 28 x 28 inside each box. The input is an
image as read by OpenCV, 0 to 255; normalization and padding are part of the file. At
the end the results of ONNX Runtime and PyTorch are compared, unless --no-check is
given.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from crossformer_mm.checkpoint.convert import sha256
from parts.onnx_agreement import SIZES, compare, load, open_session
from parts.onnx_networks import (
    LEAST_SIDE,
    OPSET,
    NotCovered,
    Segmentor,
    at_any_size,
    whole_network,
)
from parts.output import complete, fail

LEAST_AGREEMENT = 0.9  # apart from ties, all results should agree


def main() -> None:
    """Build the network, export it, check the result and write it."""
    args = parse_args()
    if not hasattr(torch.onnx, 'ops'):
        fail(f'torch {torch.__version__} cannot export so: use torch 2.13')
    for path in (args.config, args.checkpoint):
        if not path.is_file():
            fail(f'{path} is missing')
    if args.out.exists():
        fail(f'{args.out} is there already: choose another name, or remove it')
    cfg = Config.fromfile(args.config)
    model, content = load(cfg, args.checkpoint)
    try:
        network = whole_network(model, args.scores)
    except NotCovered as error:
        fail(str(error))
    print(f'Exporting the {type(model).__name__}: this takes minutes')
    program = export(network)
    about = describe(cfg, content, network) | dict(sha256=sha256(args.checkpoint))
    program.model.metadata_props['crossformer_mm'] = json.dumps(about)
    with complete(args.out) as part:
        program.save(part)  # weights above 2 GB go into a second file beside it
        for size in () if args.no_check else SIZES:
            line, share = compare(model, open_session(part), size)
            print(line, flush=True)
            if share < LEAST_AGREEMENT:
                fail('the file does not agree with PyTorch; nothing is written')
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, opset {OPSET}')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', metavar='CONFIG', type=Path)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', type=Path)
    parser.add_argument('out', metavar='OUT.onnx', type=Path)
    parser.add_argument(
        '--scores', action='store_true', help="a segmentor's scores as well"
    )
    parser.add_argument(
        '--no-check', action='store_true', help='do not compare it with PyTorch'
    )
    return parser.parse_args()


def describe(
    cfg: Config, content: dict[str, Any], network: nn.Module
) -> dict[str, Any]:
    """Return the metadata that a program needs to use the file."""
    data = cfg.test_dataloader.dataset
    meta = content.get('meta', {}).get('dataset_meta') or data.get('metainfo')
    if not meta:  # the classes of the data set itself
        registry = importlib.import_module(f'{cfg.default_scope}.registry')
        importlib.import_module(f'{cfg.default_scope}.datasets')
        meta = registry.DATASETS.get(data.type).METAINFO
    meta = {key.lower(): value for key, value in meta.items()}
    steps = {step['type'].split('.')[-1]: step for step in data.get('pipeline', ())}
    resize = steps.get('Resize', {})
    segments = isinstance(network, Segmentor)
    return dict(
        task='segment' if segments else 'detect',
        input='float32 [B, 3, H, W], as OpenCV reads images: BGR, 0 to 255',
        least_side=LEAST_SIDE,
        classes=list(meta.get('classes') or ()),
        palette=[list(colour) for colour in meta.get('palette') or ()],
        scale=list(resize.get('scale') or ()),
        keep_ratio=bool(resize.get('keep_ratio', False)),
        multiple=steps.get('ResizeToMultiple', {}).get('size_divisor', 1),
        score_threshold=None if segments else network.score_threshold,
    )


def export(network: nn.Module) -> 'torch.onnx.ONNXProgram':
    """Export with dynamic height and width, and for segmentors dynamic batch size."""
    segments = isinstance(network, Segmentor)
    example = torch.rand(1 + segments, 3, 231, 327) * 255
    sides = {
        2: torch.export.Dim('height', min=LEAST_SIDE),
        3: torch.export.Dim('width', min=LEAST_SIDE),
    }
    if segments:
        sides[0] = torch.export.Dim('batch', min=1)
    # Guards that the exporter cannot prove become runtime asserts; `compare` runs them.
    with at_any_size():
        exported = torch.export.export(
            network,
            (example,),
            dynamic_shapes=(sides,),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return torch.onnx.export(
        exported,
        opset_version=OPSET,
        input_names=['images'],
        output_names=network.outputs,
        verbose=False,
    )


if __name__ == '__main__':
    main()
