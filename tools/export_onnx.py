"""Write a detector or segmentor as one ONNX file, for images of any size.

    python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx

Segmentors of MMSegmentation give labels, with --scores also the score of each class.
RetinaNet, ATSS, FCOS and what else shares their test path give boxes, scores, labels,
Mask R-CNN and Cascade Mask R-CNN masks too, 28 x 28 inside of each box. The image goes
in as OpenCV reads it, 0 to 255: normalizing and padding are in the file. It is run in
ONNX Runtime beside PyTorch at the end, unless --no-check is given.
"""

import argparse
import importlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_state_dict
from torch import nn
from torch.export import Dim

from crossformer_mm.checkpoint.fit import check_loaded
from crossformer_mm.checkpoint.reader import CheckpointError, read_checkpoint
from crossformer_mm.checkpoint.writer import sha256
from crossformer_mm.models import position_bias
from onnx_agreement import SIZES, compare, open_session
from parts import onnx_operators
from parts.onnx_networks import NotCovered, Segmentor, whole_network
from parts.output import fail

OPSET = 18  # the lowest of torch's exporter
LEAST_SIDE = 64
LEAST_AGREEMENT = 0.9  # ties apart, all should agree


def main() -> None:
    """Build, export, check and write."""
    args = parse_args()
    for path in (args.config, args.checkpoint):
        if not path.is_file():
            fail(f'{path} is missing')
    if args.out.exists():
        fail(f'{args.out} is there already: choose another name, or remove it')
    if not args.out.parent.is_dir():
        fail(f'{args.out} cannot be written: there is no folder {args.out.parent}')
    cfg = Config.fromfile(args.config)
    model, content = load(cfg, args.checkpoint)
    try:
        network = whole_network(model, args.scores)
    except NotCovered as error:
        fail(str(error))
    print(f'Exporting the {type(model).__name__}: a minute or more')
    with TemporaryDirectory(prefix='.', dir=args.out.parent) as folder:
        part = Path(folder) / args.out.name
        program = export(network)
        about = describe(cfg, content, network) | dict(sha256=sha256(args.checkpoint))
        program.model.metadata_props['crossformer_mm'] = json.dumps(about)
        program.save_figure(part)
        if not args.no_check:
            session = open_session(part)
            for size in SIZES:
                line, share = compare(model, session, size)
                print(line, flush=True)
                if share < LEAST_AGREEMENT:
                    fail('the file does not agree with PyTorch; nothing is written')
        for file in Path(folder).iterdir():  # weights above 2 GB are in a second one
            file.rename(args.out.parent / file.name)
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
        '--no-check', action='store_true', help='do not run it beside PyTorch'
    )
    return parser.parse_args()


def load(cfg: Config, checkpoint: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network and load its weights, all of them."""
    scope = cfg.get('default_scope')
    if scope not in ('mmdet', 'mmseg'):
        fail(f'the config is for {scope}: a detector or a segmentor is needed')
    init_default_scope(scope)
    model = MODELS.build(cfg.model)
    try:
        content = read_checkpoint(str(checkpoint))
        load_state_dict(model, content.get('state_dict', content), logger='silent')
        check_loaded(model, content, str(checkpoint))
    except CheckpointError as error:
        fail(str(error))
    return model.eval().requires_grad_(False), content


def describe(
    cfg: Config, content: dict[str, Any], network: nn.Module
) -> dict[str, Any]:
    """Say what one has to know to use the file."""
    data = cfg.test_dataloader.dataset
    meta = content.get('meta', {}).get('dataset_meta') or data.get('metainfo')
    if not meta:  # the names of the data set's own classes
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


def export(network: nn.Module) -> Any:
    """Export with dynamic height and width, of segmentors batch too."""
    segments = isinstance(network, Segmentor)
    example = torch.rand(1 + segments, 3, 231, 327) * 255
    least = network.traced_from
    sides = {2: Dim('height', min=least), 3: Dim('width', min=least)}
    if segments:
        sides[0] = Dim('batch', min=1)
    found = mock.patch.object(
        position_bias,
        'offsets',
        lambda rows, cols, _: onnx_operators.offsets(rows, cols),
    )
    # What holds at every size, but is beyond the exporter to prove, is put off:
    # `compare` shows that it does.
    with found:
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
        custom_translation_table=onnx_operators.TRANSLATIONS,
        verbose=False,
    )


if __name__ == '__main__':
    main()
