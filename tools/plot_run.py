"""Show what a training of a detector has learnt: two pictures and its AP.

    mim test mmdet CONFIG --checkpoint X --work-dir WORK_DIR \
        --out WORK_DIR/predictions.pkl
    python tools/plot_run.py WORK_DIR CONFIG

`WORK_DIR/curves.png` holds the losses and the AP of the newest training in WORK_DIR,
`WORK_DIR/predictions.png` the busiest test images, ground truth beside prediction.
The AP is what the newest test in WORK_DIR measured.

`predictions.pkl` is a pickle, and unpickling runs whatever the file says: only give a
file that you have written yourself.
"""

import argparse
import itertools
import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import mmengine
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask

IMAGES = 8  # shown
SCORE = 0.5  # shown from here on
KINDS = {'box': 'coco/bbox_mAP', 'mask': 'coco/segm_mAP'}  # mmdet's names
VARIANTS = {
    'AP': '',
    'AP50': '_50',
    'AP75': '_75',
    'AP small': '_s',
    'AP medium': '_m',
    'AP large': '_l',
}
COLOURS = colormaps['tab10'].colors

Record = dict[str, Any]


@dataclass(frozen=True)
class Instance:
    """An object in an image, true or predicted.

    Attributes:
        label: Index of its class.
        box: Left, top, right, bottom, in pixels.
        mask: `[height, width]`, or None from a model without masks.
        score: None for ground truth.
    """

    label: int
    box: list[float]
    mask: np.ndarray | None
    score: float | None = None


@dataclass(frozen=True)
class Example:
    """An image with what is there and what the model sees."""

    path: str
    truth: list[Instance]
    prediction: list[Instance]


def main() -> None:
    """Draw both pictures, then print what was trained, its AP and where they are."""
    args = parse_args(__doc__.splitlines()[0])
    training, evaluations = read_training(args.work_dir)
    test_run = find_test_run(args.work_dir)
    examples, classes = read_examples(args.work_dir / 'predictions.pkl', args.config)
    metrics = json.loads((test_run / f'{test_run.name}.json').read_text())
    tested = Config.fromfile(
        test_run / 'vis_data' / 'config.py', import_custom_modules=False
    )
    curves = plot_curves(training, evaluations)
    predictions = plot_predictions(examples, classes)
    curves = save(curves, args.work_dir / 'curves.png')
    predictions = save(predictions, args.work_dir / 'predictions.png')
    steps = training[-1]['step']
    print(f'trained   {tested.load_from}, {steps} iterations of {args.config}')
    print_precision(metrics)
    print(f'pictures  {predictions}, {curves}')


def parse_args(description: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'work_dir', metavar='WORK_DIR', type=Path, help='where the training wrote'
    )
    parser.add_argument(
        'config', metavar='CONFIG', type=Path, help='the config that was tested'
    )
    return parser.parse_args()


def fail(message: str) -> NoReturn:
    """End with one line on stderr."""
    sys.exit(f'{Path(sys.argv[0]).stem}: {message}')


# What mmengine wrote.


def read_training(work_dir: Path) -> tuple[list[Record], list[Record]]:
    """Read the newest training: its steps and its evaluations.

    A step of an evaluation may count epochs; here each gets the iteration of the last
    training record before it.
    """
    for path in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        training, evaluations = [], []
        for record in map(json.loads, path.read_text().splitlines()):
            if 'loss' in record:
                training.append(record)
            elif training:
                evaluations.append({**record, 'step': training[-1]['step']})
        if training:
            return training, evaluations
    fail(
        f'{work_dir} holds no training (no */vis_data/scalars.json with a loss): '
        'give the --work-dir of a finished `mim train`'
    )


def find_test_run(work_dir: Path) -> Path:
    """Find the folder of the newest test."""
    runs = [p.parent for p in work_dir.glob('*/*.json') if p.stem == p.parent.name]
    if not runs:
        fail(
            f'{work_dir} holds no test result (no TIME/TIME.json): '
            f'run `mim test` with --work-dir {work_dir} first'
        )
    return max(runs)


def read_examples(
    predictions: Path, config: Path
) -> tuple[list[Example], tuple[str, ...]]:
    """Pair predictions with the config's test set; return the busiest images.

    Returns:
        The examples and the names of the classes.
    """
    if not predictions.is_file():
        fail(f'{predictions} is missing: run `mim test` with --out {predictions}')
    if not config.is_file():
        fail(f'{config} is missing: name the config that was tested')
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline = []  # annotations only
    try:
        with (
            DefaultScope.overwrite_default_scope(cfg.default_scope),
            redirect_stdout(None),  # pycocotools tells of its index
        ):
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
    except FileNotFoundError as error:
        fail(f'the test set of {config} is not there: {error}')
    images = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        images[info['img_path']] = info
    results = {result['img_path']: result for result in mmengine.load(predictions)}
    if not results.keys() <= images.keys():
        fail(f'{predictions} was made on other images than the test set of {config}')
    busiest = sorted(results, key=lambda path: -len(images[path]['instances']))
    examples = [
        Example(path, true_instances(images[path]), predicted_instances(results[path]))
        for path in busiest[:IMAGES]
    ]
    return examples, dataset.metainfo['classes']


def true_instances(info: Record) -> list[Instance]:
    """Read the objects of an entry of the dataset."""
    size = info['height'], info['width']
    return [
        Instance(
            entry['bbox_label'],
            entry['bbox'],
            coco_mask.decode(
                coco_mask.merge(coco_mask.frPyObjects(entry['mask'], *size))
            )
            if 'mask' in entry
            else None,
        )
        for entry in info['instances']
        if not entry['ignore_flag']  # a crowd
    ]


def predicted_instances(result: Record) -> list[Instance]:
    """Read the objects that the model is sure about, the surest last."""
    found = result['pred_instances']
    masks = found.get('masks', [None] * len(found['scores']))
    instances = [
        Instance(
            int(label),
            box.tolist(),
            None if mask is None else coco_mask.decode(mask),
            float(score),
        )
        for label, box, mask, score in zip(
            found['labels'], found['bboxes'], masks, found['scores']
        )
        if score >= SCORE
    ]
    return sorted(instances, key=lambda instance: instance.score)


# Pictures.


def plot_curves(training: list[Record], evaluations: list[Record]) -> Figure:
    """Draw the losses and the AP over the iterations."""
    figure = Figure(figsize=(12, 4.8), dpi=150, layout='constrained')
    losses, precision = figure.subplots(1, 2)
    steps = [record['step'] for record in training]
    parts = [key for key in training[0] if 'loss' in key and key != 'loss']
    for key in parts:
        losses.plot(steps, [record[key] for record in training], lw=1.2, label=key)
    total = [record['loss'] for record in training]
    losses.plot(steps, total, lw=2.4, color='black', label='sum')
    losses.set(title='Losses', yscale='log')

    steps = [record['step'] for record in evaluations]
    for (kind, key), colour in zip(KINDS.items(), COLOURS):
        for name, style in (('AP', 'o-'), ('AP50', 'o:')):
            metric = key + VARIANTS[name]
            values = [record[metric] for record in evaluations if metric in record]
            if values:
                label = f'{kind} {name}: {values[-1]:.3f} at the end'
                precision.plot(steps, values, style, color=colour, label=label)
    precision.set(title='Average precision on the validation set', ylim=(0, 1))

    for axes in (losses, precision):
        axes.set(xlabel='iteration', xlim=(0, None))
        axes.grid(color='0.9')
        axes.spines[['top', 'right']].set_visible(False)
    losses.legend(frameon=False, fontsize='small')
    if evaluations:
        precision.legend(frameon=False, fontsize='small', loc='lower right')
    return figure


def plot_predictions(examples: list[Example], classes: tuple[str, ...]) -> Figure:
    """Draw a grid of images, ground truth beside prediction."""
    labels = {i.label for e in examples for i in e.truth + e.prediction}
    colours = dict(zip(sorted(labels), itertools.cycle(COLOURS)))
    rows = -(-len(examples) // 2)
    figure = Figure(figsize=(14, 3.5 * rows + 0.7), dpi=150, layout='constrained')
    grid = figure.subplots(rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.axis('off')
    for example, (left, right) in zip(examples, grid.reshape(-1, 2)):
        image = cv2.imread(example.path)[..., ::-1]
        draw_instances(left, image, example.truth, classes, colours)
        draw_instances(right, image, example.prediction, classes, colours)
    for column, axes in enumerate(grid[0]):
        axes.set_title(
            f'prediction (score ≥ {SCORE})' if column % 2 else 'ground truth'
        )
    figure.legend(
        handles=[Patch(color=colours[i], label=classes[i]) for i in colours],
        loc='outside lower center',
        ncols=10,
        frameon=False,
    )
    return figure


def draw_instances(
    axes: Axes,
    image: np.ndarray,
    instances: list[Instance],
    classes: tuple[str, ...],
    colours: dict[int, tuple[float, float, float]],
) -> None:
    """Draw an image with the boxes, masks and names of its objects."""
    height, width = image.shape[:2]
    axes.imshow(image, interpolation='bicubic', extent=(0, width, height, 0))
    for instance in instances:
        colour = colours[instance.label]
        left, top, right, bottom = instance.box
        for outline in outlines(instance.mask):
            axes.add_patch(Polygon(outline, fc=(*colour, 0.35), ec=colour, lw=1.5))
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fc='none', ec=colour)
        )
        name = classes[instance.label]
        at_the_right = left + right > 1.5 * width  # where a long name finds no room
        axes.annotate(
            name if instance.score is None else f'{name} {instance.score:.2f}',
            (right if at_the_right else left, top),
            xytext=(-2 if at_the_right else 2, -2),
            textcoords='offset points',
            horizontalalignment='right' if at_the_right else 'left',
            verticalalignment='top',
            color='white',
            fontsize='x-small',
            bbox={'fc': colour, 'ec': 'none', 'pad': 1, 'alpha': 0.85},
        )


def outlines(mask: np.ndarray | None) -> list[np.ndarray]:
    """Return the outlines of a mask's pieces as points `(x, y)`."""
    if mask is None:
        return []
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour[:, 0] + 0.5 for contour in contours]


def save(figure: Figure, path: Path) -> Path:
    """Write a picture; a failure leaves the one before."""
    part = path.with_suffix('.part')
    figure.savefig(part, format='png')
    return part.replace(path)


def print_precision(metrics: Record) -> None:
    """Print the test's AP; a size that does not occur has none."""
    for kind, key in KINDS.items():
        if key in metrics:
            values = {name: metrics[key + end] for name, end in VARIANTS.items()}
            told = (
                f'{name} {value:.3f}' for name, value in values.items() if value >= 0
            )
            print(f'{kind:9} {", ".join(told)}')


if __name__ == '__main__':
    main()
