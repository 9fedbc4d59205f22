"""Plot the loss, mIoU and predictions of a segmentor.

    mim test mmsegmentation CONFIG --checkpoint X --work-dir WORK_DIR \
        --out WORK_DIR/predictions
    python tools/plot_seg_run.py WORK_DIR CONFIG

`WORK_DIR/curves.png` shows the loss and the metrics of the newest training in WORK_DIR;
if it was resumed, from the beginning. `WORK_DIR/predictions.png` shows eight test
images with their ground truth and predicted labels; white is unlabelled. The printed
result is that of the newest test in WORK_DIR; the test needs the `--out` above.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from parts.output import fail, save_figure
from parts.run_logs import Record, find_test, read_training, run_parser
from parts.run_plots import (
    aspect_ratio,
    curve_axes,
    figure_legend,
    image_grid,
    legend_below,
    palette,
)

IMAGES = 8  # shown
NO_METRICS = {'step', 'data_time', 'time'}  # all other values are in percent


def main() -> None:
    """Save both plots; print a summary of the training, the mIoU and the file names."""
    args = run_parser(__doc__).parse_args()
    training, evaluations = read_training(args.work_dir)
    folder = args.work_dir / 'predictions'
    _, metrics = find_test(args.work_dir, args.config, 'mmsegmentation', folder)
    examples, classes = read_examples(folder, args.config)
    curves = plot_curves(training, evaluations)
    predictions = plot_predictions(examples, classes)
    curves = save_figure(curves, args.work_dir / 'curves.png')
    predictions = save_figure(predictions, args.work_dir / 'predictions.png')
    print(f'trained   {args.config}, {training[-1]["step"]} iterations')
    results = (f'{name} {metrics[name]:.2f} %' for name in metrics.keys() - NO_METRICS)
    print('result   ', ', '.join(sorted(results, reverse=True)))
    print(f'pictures  {predictions}, {curves}')


def read_examples(
    folder: Path, config: Path
) -> tuple[list[tuple[np.ndarray, ...]], tuple[str, ...]]:
    """Match the first predictions with the config's test set.

    Returns:
        For each example the image, its ground truth and its predicted labels; and the
        class names.
    """
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
        # With reduce_zero_label, mmseg saves labels counted from 1.
        prediction = prediction - np.uint8(dataset.reduce_zero_label)
        examples.append((example['img'][..., ::-1], example['gt_seg_map'], prediction))
    return examples, dataset.metainfo['classes']


def plot_curves(training: list[Record], evaluations: list[Record]) -> Figure:
    """Plot the losses and the metrics over the iterations."""
    figure, (losses, metrics) = curve_axes(('Loss', 'On the validation set, in %'))
    steps = [record['step'] for record in training]
    losses.plot(steps, [record['loss'] for record in training], color='black')
    losses.set(yscale='log')
    steps = [record['step'] for record in evaluations]
    names = [name for name in (evaluations or [{}])[-1] if name not in NO_METRICS]
    for name, colour in zip(names, palette(len(names))):
        values = [record[name] for record in evaluations]
        label = f'{name}, last {values[-1]:.2f} %'
        metrics.plot(steps, values, 'o-', color=colour, label=label)
    metrics.set(ylim=(0, 100), xlim=losses.get_xlim())
    legend_below(metrics, 2)
    return figure


def plot_predictions(
    examples: list[tuple[np.ndarray, ...]], classes: tuple[str, ...]
) -> Figure:
    """Draw a grid of images, each with its ground truth and predicted labels."""
    used = sorted(
        {label for _, *maps in examples for each in maps for label in np.unique(each)}
        & {*range(len(classes))}  # other labels are void
    )
    colours = dict(zip(used, palette(len(used))))
    patches = [Patch(color=colours[label], label=classes[label]) for label in used]
    patches.append(Patch(fc='white', ec='0.5', label='unlabelled'))
    # Images of similar aspect ratio side by side leave the smallest gaps.
    examples = sorted(examples, key=lambda example: aspect_ratio(example[0]))
    figure, grid = image_grid(
        [image.shape[:2] for image, *_ in examples],
        ('image', 'ground truth', 'prediction'),
        [patch.get_label() for patch in patches],
    )
    for (image, *maps), (first, *others) in zip(examples, grid):
        first.imshow(image)
        for labels, axes in zip(maps, others):
            axes.imshow(paint(labels, colours), interpolation='nearest')
            axes.axis('on')  # frame maps with void labels at the border
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color('0.8')
    figure_legend(figure, patches)
    return figure


def paint(labels: np.ndarray, colours: dict[int, Any]) -> np.ndarray:
    """Return a picture of a label map; unlabelled pixels are white."""
    picture = np.ones((*labels.shape, 3))
    for label, colour in colours.items():
        picture[labels == label] = to_rgb(colour)
    return picture


if __name__ == '__main__':
    main()
