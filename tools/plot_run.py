"""Plot the losses, AP and predictions of a detector.

    mim test mmdet CONFIG --checkpoint X --work-dir WORK_DIR \
        --out WORK_DIR/predictions.pkl
    python tools/plot_run.py WORK_DIR CONFIG

`WORK_DIR/curves.png` shows the losses and the AP of the newest training in WORK_DIR; if
it was resumed, from the beginning. `WORK_DIR/predictions.png` shows the test images
with most objects, ground truth beside prediction. The printed AP is that of the newest
test in WORK_DIR; the test needs the `--out` above.

`predictions.pkl` is a pickle, and unpickling can execute arbitrary code: use only files
that you have written yourself.
"""

from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmengine
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask

from parts.output import fail, save_figure
from parts.run_logs import Record, find_test, read_training, run_parser
from parts.run_plots import (
    DASHES,
    FONT,
    aspect_ratio,
    curve_axes,
    figure_legend,
    image_grid,
    legend_below,
    palette,
    text_colour,
)

IMAGES = 8  # shown
KINDS = {'box': 'coco/bbox_mAP', 'mask': 'coco/segm_mAP'}  # mmdet's names
VARIANTS = {
    'AP': '',
    'AP50': '_50',
    'AP75': '_75',
    'AP small': '_s',
    'AP medium': '_m',
    'AP large': '_l',
}


@dataclass(frozen=True)
class Instance:
    """An object in an image, ground truth or predicted.

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
    """An image with its ground truth and the predictions above a score.

    Attributes:
        best: The highest score in the image, shown or not; 0 without predictions.
    """

    path: str
    truth: list[Instance]
    prediction: list[Instance]
    best: float


def main() -> None:
    """Save both plots; print a summary of the training, the AP and the file names."""
    parser = run_parser(__doc__)
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='least score of an object in the pictures (default: 0.3)',
    )
    args = parser.parse_args()
    training, evaluations = read_training(args.work_dir)
    file = args.work_dir / 'predictions.pkl'
    test_run, metrics = find_test(args.work_dir, args.config, 'mmdet', file)
    examples, classes = read_examples(file, args.config, args.score)
    tested = Config.fromfile(
        test_run / 'vis_data' / 'config.py', import_custom_modules=False
    )
    curves = plot_curves(training, evaluations)
    predictions = plot_predictions(examples, classes, args.score)
    curves = save_figure(curves, args.work_dir / 'curves.png')
    predictions = save_figure(predictions, args.work_dir / 'predictions.png')
    steps = training[-1]['step']
    print(f'trained   {tested.load_from}, {steps} iterations of {args.config}')
    print_precision(metrics)
    if not any(example.prediction for example in examples):
        best = max(example.best for example in examples)
        print(
            f'shown     no object: the best score is {best:.2f}, below {args.score:g}; '
            'take a lower --score'
        )
    print(f'pictures  {predictions}, {curves}')


def read_examples(
    predictions: Path, config: Path, score: float
) -> tuple[list[Example], tuple[str, ...]]:
    """Match predictions with the config's test set; return images with most objects.

    Returns:
        The examples and the class names.
    """
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline = []  # annotations only
    try:
        with (
            DefaultScope.overwrite_default_scope(cfg.default_scope),
            redirect_stdout(None),  # pycocotools prints its progress
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
        Example(
            path,
            true_instances(images[path]),
            predicted_instances(results[path], score),
            max(results[path]['pred_instances']['scores'].tolist(), default=0.0),
        )
        for path in busiest[:IMAGES]
    ]
    return examples, dataset.metainfo['classes']


def true_instances(info: Record) -> list[Instance]:
    """Return the ground-truth objects of an entry of the data set."""
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


def predicted_instances(result: Record, least: float) -> list[Instance]:
    """Return the predicted objects above a score, highest score last."""
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
        if score >= least
    ]
    return sorted(instances, key=lambda instance: instance.score)


# Plots.


def plot_curves(training: list[Record], evaluations: list[Record]) -> Figure:
    """Plot the losses and the AP over the iterations."""
    figure, (losses, precision) = curve_axes(
        ('Losses', 'Average precision on the validation set')
    )
    steps = [record['step'] for record in training]
    parts = [key for key in training[0] if 'loss' in key and key != 'loss']
    for number, (key, colour) in enumerate(zip(parts, palette(len(parts)))):
        values = [record.get(key, np.nan) for record in training]
        style = DASHES[number % len(DASHES)]
        losses.plot(steps, values, style, lw=1.6, color=colour, label=key)
    total = [record['loss'] for record in training]
    losses.plot(steps, total, lw=2.6, color='black', label='sum')
    losses.set(yscale='log')

    steps = [record['step'] for record in evaluations]
    for (kind, key), colour in zip(KINDS.items(), palette(len(KINDS))):
        for name, style in (('AP', 'o-'), ('AP50', 's:')):
            metric = key + VARIANTS[name]
            values = [record.get(metric, np.nan) for record in evaluations]
            if not np.isnan(values).all():
                label = f'{kind} {name}, last {values[-1]:.3f}'
                precision.plot(steps, values, style, color=colour, label=label)
    precision.set(ylim=(0, 1), xlim=losses.get_xlim())
    for axes in (losses, precision):
        legend_below(axes, 2)
    return figure


def plot_predictions(
    examples: list[Example], classes: tuple[str, ...], score: float
) -> Figure:
    """Draw a grid of images, ground truth beside prediction."""
    labels = sorted({i.label for e in examples for i in e.truth + e.prediction})
    colours = dict(zip(labels, palette(len(labels))))
    images = [cv2.imread(example.path)[..., ::-1] for example in examples]
    # Images of similar aspect ratio side by side leave the smallest gaps.
    order = sorted(range(len(images)), key=lambda i: aspect_ratio(images[i]))
    examples, images = [examples[i] for i in order], [images[i] for i in order]
    figure, grid = image_grid(
        [image.shape[:2] for image in images],
        ('ground truth', f'prediction (score ≥ {score:g})'),
        [classes[label] for label in labels],
    )
    for example, image, (left, right) in zip(examples, images, grid):
        draw_instances(left, image, example.truth, classes, colours)
        draw_instances(right, image, example.prediction, classes, colours)
        if not example.prediction:
            right.text(
                *(0.5, 0.04, f'nothing ≥ {score:g}, best {example.best:.2f}'),
                transform=right.transAxes,
                horizontalalignment='center',
                fontsize=FONT - 2,
                bbox={'fc': 'white', 'ec': 'none', 'pad': 2},
            )
    figure_legend(figure, [Patch(color=colours[i], label=classes[i]) for i in colours])
    return figure


def draw_instances(
    axes: Axes,
    image: np.ndarray,
    instances: list[Instance],
    classes: tuple[str, ...],
    colours: dict[int, str],
) -> None:
    """Draw an image with the boxes, masks and names of its objects."""
    height, width = image.shape[:2]
    axes.imshow(image, interpolation='bicubic', extent=(0, width, height, 0))
    for instance in instances:
        colour = colours[instance.label]
        left, top, right, bottom = instance.box
        for outline in outlines(instance.mask):
            axes.add_patch(
                Polygon(outline, fc=(*to_rgb(colour), 0.35), ec=colour, lw=1.5)
            )
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fc='none', ec=colour, lw=1.5
            )
        )
        name = classes[instance.label]
        at_the_right = left + right > 1.5 * width  # a long name would not fit
        axes.annotate(
            name if instance.score is None else f'{name} {instance.score:.2f}',
            (right if at_the_right else left, top),
            xytext=(-2 if at_the_right else 2, -2),
            textcoords='offset points',
            horizontalalignment='right' if at_the_right else 'left',
            verticalalignment='top',
            color=text_colour(colour),
            fontsize=FONT - 4,
            bbox={'fc': colour, 'ec': 'none', 'pad': 1, 'alpha': 0.85},
        )


def outlines(mask: np.ndarray | None) -> list[np.ndarray]:
    """Return the outline of each piece of a mask as points `(x, y)`."""
    if mask is None:
        return []
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [contour[:, 0] + 0.5 for contour in contours]


def print_precision(metrics: Record) -> None:
    """Print the test's AP, except for object sizes that do not occur."""
    for kind, key in KINDS.items():
        if key in metrics:
            values = {name: metrics[key + end] for name, end in VARIANTS.items()}
            parts = (
                f'{name} {value:.3f}' for name, value in values.items() if value >= 0
            )
            print(f'{kind:9} {", ".join(parts)}')


if __name__ == '__main__':
    main()
