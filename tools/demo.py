"""Run a detector or segmentor on an image or a folder of images.

    python tools/demo.py IMAGE_OR_FOLDER --config C --checkpoint F --out DIR

Runs MMDetection's DetInferencer or MMSegmentation's MMSegInferencer. Pictures go into
DIR/vis. Results go into DIR/preds, one JSON file per image: for a detector the labels,
scores, boxes and masks in DetInferencer's format; for a segmentor the fraction of the
image covered by each class, and the label map beside it as NAME.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from torch import nn
from tqdm import tqdm

from crossformer_mm.checkpoint import CheckpointError, check_loaded, read_checkpoint
from crossformer_mm.ops import accelerate_cpu, is_faster_accelerated
from parts.output import fail

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


def main() -> None:
    """Find the images and run the inferencer that the config needs."""
    args = parse_args()
    for path in (args.config, args.checkpoint):
        if not path.is_file():
            fail(f'{path} is missing')
    images = find_images(args.images)
    if args.out.exists() and any(args.out.iterdir()):
        fail(f'{args.out} holds something already: name another folder by --out')
    scope = Config.fromfile(args.config).get('default_scope')
    if scope == 'mmdet':
        detect(images, args)
    elif scope == 'mmseg':
        segment(images, args)
    else:
        fail(f'{args.config} is for {scope}: a detector or a segmentor is needed')
    print(f'{len(images)} of {len(images)} images: {args.out}')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'images', metavar='IMAGE_OR_FOLDER', type=Path, help='subfolders are not read'
    )
    parser.add_argument('--config', metavar='C', type=Path, required=True)
    parser.add_argument('--checkpoint', metavar='F', type=Path, required=True)
    parser.add_argument('--out', type=Path, default=Path('demo'), help='default: demo')
    parser.add_argument(
        '--device', help='such as cpu or cuda:0 (default: a GPU if there is one)'
    )
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='least score of an object in the pictures (default: 0.3)',
    )
    return parser.parse_args()


def find_images(path: Path) -> list[Path]:
    """List the readable images; print the names of the others."""
    if not path.exists():
        fail(f'{path} is missing')
    paths = [path]
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    images = [p for p in tqdm(paths, 'reading', unit='image') if readable(p)]
    for unread in sorted(set(paths) - set(images)):
        print(f'left out, cannot be read: {unread}')
    if not images:
        fail(f'{path} holds no image that can be read ({", ".join(SUFFIXES)})')
    stems = [image.stem for image in images]
    for image in images:
        if stems.count(image.stem) > 1:
            fail(f'{image} would write the same results as another image: rename it')
    return images


def readable(path: Path) -> bool:
    """Return whether OpenCV, used by both inferencers, can read an image."""
    return path.is_file() and cv2.imread(str(path)) is not None


def detect(images: list[Path], args: argparse.Namespace) -> None:
    """Write a detector's pictures and JSON files."""
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(
        str(args.config), str(args.checkpoint), args.device, show_progress=False
    )
    check_weights(inferencer.model, args)
    accelerate(inferencer.model)
    for image in tqdm(images, 'detecting', unit='image'):
        inferencer(
            str(image),
            out_dir=str(args.out),
            no_save_pred=False,
            pred_score_thr=args.score,
        )


def segment(images: list[Path], args: argparse.Namespace) -> None:
    """Write a segmentor's pictures, label maps and JSON files."""
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(
        str(args.config), str(args.checkpoint), device=args.device
    )
    inferencer.show_progress = False
    check_weights(inferencer.model, args)
    accelerate(inferencer.model)
    classes = inferencer.model.dataset_meta['classes']
    folder = args.out / 'preds'
    folder.mkdir(parents=True)
    for number, image in enumerate(tqdm(images, 'segmenting', unit='image')):
        place = dict(out_dir=str(args.out), pred_out_dir=folder.name)
        labels = inferencer(str(image), **place)['predictions']
        # MMSegInferencer names label maps by number.
        label_map = (folder / f'{number:08}_pred.png').rename(
            folder / f'{image.stem}.png'
        )
        found = dict(
            image=str(image),
            label_map=str(label_map.relative_to(args.out)),
            share=class_shares(labels, classes),
        )
        (folder / f'{image.stem}.json').write_text(json.dumps(found, indent=1))


def check_weights(model: nn.Module, args: argparse.Namespace) -> None:
    """Fail if the checkpoint is of another network, which inferencers do not report."""
    strict = Config.fromfile(args.config).get('strict', True)
    try:
        content = read_checkpoint(str(args.checkpoint))
        check_loaded(model, content, str(args.checkpoint), strict)
    except CheckpointError as error:
        fail(str(error))


def accelerate(model: nn.Module) -> None:
    """Replace layers by faster ones if this CPU benefits."""
    if next(model.parameters()).is_cpu and is_faster_accelerated():
        accelerate_cpu(model)


def class_shares(labels: np.ndarray, classes: Any) -> dict[str, float]:
    """Return the fraction of the image covered by each class, largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    order = np.argsort(-counts, kind='stable')
    return {classes[i]: round(float(counts[i]), 6) for i in order if counts[i]}


if __name__ == '__main__':
    main()
