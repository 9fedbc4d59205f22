"""Show what a training of a segmentor has learnt: two pictures and its mIoU.

    mim test mmsegmentation CONFIG --checkpoint X --work-dir WORK_DIR \
        --out WORK_DIR/predictions
    python tools/plot_seg_run.py WORK_DIR CONFIG

`WORK_DIR/curves.png` holds the losses and the mIoU of the newest training in WORK_DIR,
`WORK_DIR/predictions.png` some test images with their true and their predicted labels.
The mIoU is what the newest test in WORK_DIR measured.
"""

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from plot_run import (
    COLOURS,
    IMAGES,
    Record,
    fail,
    find_test_run,
    parse_args,
    read_training,
    save,
)

METRICS = ('mIoU', 'mAcc', 'aAcc')  # mmseg's names; percent
IGNORED = 255


def main() -> None:
    """Draw both pictures, then print what was trained, its mIoU and where they are."""
    args = parse_args(__doc__.splitlines()[0])
    training, evaluations = read_training(args.work_dir)
    test_run = find_test_run(args.work_dir)
    examples, classes = read_examples(args.work_dir / 'predictions', args.config)
    metrics = json.loads((test_run / f'{test_run.name}.json').read_text())
    curves = plot_curves(training, evaluations)
    predictions = plot_predictions(examples, classes)
    curves = save(curves, args.work_dir / 'curves.png')
    predictions = save(predictions, args.work_dir / 'predictions.png')
    print(f'trained   {args.config}, {training[-1]["step"]} iterations')
    print('result   ', ', '.join(f'{name} {metrics[name]:.2f} %' for name in METRICS))
    print(f'pictures  {predictions}, {curves}')


def read_examples(
    folder: Path, config: Path
) -> tuple[list[tuple[np.ndarray, ...]], tuple[str, ...]]:
    """Pair the first predictions with the config's test set.

    Returns:
        Per example the image, its true and its predicted labels; names of the classes.
    """
    if not folder.is_dir():
        fail(f'{folder} is missing: run `mim test` with --out {folder}')
    if not config.is_file():
        fail(f'{config} is missing: name the config that was tested')
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
    ]
    dataset: Any = DATASETS.build(cfg.test_dataloader.dataset)
    if len(dataset) == 0:
        fail(f'the test set of {config} holds no image')
    examples = []
    for index in range(min(IMAGES, len(dataset))):
        example = dataset[index]
        path = folder / Path(example['img_path']).with_suffix('.png').name
        prediction = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if prediction is None:
            fail(f'{path} is missing: test on the test set of {config}')
        # mmseg saves labels as ADE20K counts them, from 1.
        prediction = prediction - np.uint8(dataset.reduce_zero_label)
        examples.append((example['img'][..., ::-1], example['gt_seg_map'], prediction))
    return examples, dataset.metainfo['classes']


def plot_curves(training: list[Record], evaluations: list[Record]) -> Figure:
    """Draw the losses and the metrics over the iterations."""
    figure = Figure(figsize=(12, 4.8), dpi=150, layout='constrained')
    losses, metrics = figure.subplots(1, 2)
    steps = [record['step'] for record in training]
    losses.plot(steps, [record['loss'] for record in training], color='black')
    losses.set(title='Loss', yscale='log')
    steps = [record['step'] for record in evaluations]
    for name, colour in zip(METRICS, COLOURS):
        values = [record[name] for record in evaluations]
        label = f'{name}: {values[-1]:.2f} % at the end' if values else name
        metrics.plot(steps, values, 'o-', color=colour, label=label)
    metrics.set(title='On the validation set', ylim=(0, 100), ylabel='%')
    for axes in (losses, metrics):
        axes.set(xlabel='iteration', xlim=(0, None))
        axes.grid(color='0.9')
        axes.spines[['top', 'right']].set_visible(False)
    metrics.legend(frameon=False, fontsize='small', loc='lower right')
    return figure


def plot_predictions(
    examples: list[tuple[np.ndarray, ...]], classes: tuple[str, ...]
) -> Figure:
    """Draw a grid of images, each with its true and its predicted labels."""
    used = np.unique(np.stack([labels for e in examples for labels in e[1:]]))
    colours = dict(zip(used[used != IGNORED].tolist(), cycle(COLOURS)))
    rows = -(-len(examples) // 2)
    figure = Figure(figsize=(14, 2.4 * rows + 0.7), dpi=150, layout='constrained')
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.axis('off')
    for axes, title in zip(grid[0], ('image', 'ground truth', 'prediction') * 2):
        axes.set_title(title)
    for (image, *maps), axes in zip(examples, grid.reshape(-1, 3)):
        axes[0].imshow(image)
        for labels, place in zip(maps, axes[1:]):
            place.imshow(paint(labels, colours))
    figure.legend(
        handles=[
            *(Patch(color=colour, label=classes[i]) for i, colour in colours.items()),
            Patch(fc='white', ec='0.5', label='unlabelled'),
        ],
        loc='outside lower center',
        ncols=10,
        frameon=False,
    )
    return figure


def paint(labels: np.ndarray, colours: dict[int, Any]) -> np.ndarray:
    """Return a picture of a label map; what is unlabelled stays white."""
    picture = np.ones((*labels.shape, 3))
    for label, colour in colours.items():
        picture[labels == label] = to_rgb(colour)
    return picture


if __name__ == '__main__':
    main()
