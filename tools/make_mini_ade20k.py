"""Draw a small semantic-segmentation data set in ADE20K's layout.

    python tools/make_mini_ade20k.py data/mini_ade20k

Any config for ADE20K runs on it if its `data_root` points there: folders, file names
and labels are those of ADEChallengeData2016, with 1 to 150 for the classes and 0 for
unlabelled pixels. Eight of the classes are used. The scenes come from
`parts/mini_scenes.py` and depend only on the seed.
"""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import rich
from rich.progress import track
from rich.table import Table

from parts.mini_scenes import PATTERNS, SHAPES, SUPERSAMPLE, Scene, make_scene
from parts.mini_set import new_folder, parse_args, write_jpeg

# The ADE20K label and class name of each object and background of the scenes.
LABELS = {
    'stop sign': (44, 'signboard'),
    'sports ball': (120, 'ball'),
    'kite': (150, 'flag'),
    'banana': (121, 'food'),
    'vase': (136, 'vase'),
    'gradient': (3, 'sky'),
    'stripes': (19, 'curtain'),
    'tiles': (4, 'floor'),
}
UNLABELLED = 0
# Without a tint, a network needs much longer to distinguish the faint patterns.
TINTS = {
    'gradient': (0.85, 0.97, 1.12),
    'stripes': (1.10, 0.86, 0.90),
    'tiles': (1.05, 0.98, 0.76),
}
SPLITS = {'training': 'train', 'validation': 'val'}  # folder: part of the file names


def main() -> None:
    """Write the data set and print a summary."""
    args = parse_args(__doc__.splitlines()[0])
    counts = {}
    with new_folder(args.out) as root:
        for number, (split, images) in enumerate(zip(SPLITS, (args.train, args.val))):
            seeds = [[args.seed, number, index] for index in range(images)]
            counts[split] = write_split(root, split, seeds, args.size)
    print_summary(counts)
    print(f'{args.out}: images of {args.size} x {args.size} pixels, seed {args.seed}')


def write_split(
    root: Path, split: str, seeds: list[list[int]], size: int
) -> Counter[int]:
    """Write one split's images and label maps; count the pixels of each label."""
    folders = [root / kind / split for kind in ('images', 'annotations')]
    for folder in folders:
        folder.mkdir(parents=True)
    counts: Counter[int] = Counter()
    for index, seed in enumerate(track(seeds, description=split), start=1):
        scene = make_scene(seed, size)
        labels = label_map(scene)
        _, png = cv2.imencode('.png', labels)
        name = f'ADE_{SPLITS[split]}_{index:08d}'
        write_jpeg(folders[0] / f'{name}.jpg', tinted(scene))
        (folders[1] / f'{name}.png').write_bytes(png.tobytes())
        counts.update(dict(zip(*np.unique(labels, return_counts=True))))
    return counts


def tinted(scene: Scene) -> np.ndarray:
    """Return the image with the background tinted in the colour of its class."""
    visible = np.any([mask for _, mask in scene.objects], axis=0).astype(np.float32)
    size = scene.image.shape[:2]
    objects = cv2.resize(visible, size, interpolation=cv2.INTER_AREA)[..., None]
    tint = objects + (1 - objects) * np.float32(TINTS[scene.background])
    return (scene.image * tint).clip(0, 255).round().astype(np.uint8)


def label_map(scene: Scene) -> np.ndarray:
    """Return the label of each pixel, `[size, size]`, uint8.

    Pixels on an outline are unlabelled.
    """
    size = len(scene.image)
    side = size * SUPERSAMPLE
    labels = np.full((side, side), LABELS[scene.background][0], np.uint8)
    for name, visible in scene.objects:
        labels[visible] = LABELS[name][0]
    parts = labels.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE)
    lowest, highest = parts.min((1, 3)), parts.max((1, 3))
    return np.where(lowest == highest, lowest, np.uint8(UNLABELLED))


def print_summary(counts: dict[str, Counter[int]]) -> None:
    """Print the fraction of the pixels of each class, per split."""
    table = Table('class', 'label', title='share of the pixels')
    for split in counts:
        table.add_column(split, justify='right')
    rows = [LABELS[name] for name in (*SHAPES, *PATTERNS)]
    for label, name in [*rows, (UNLABELLED, 'unlabelled')]:
        shares = [count[label] / count.total() for count in counts.values()]
        table.add_row(name, str(label), *(f'{share:.1%}' for share in shares))
    rich.print(table)


if __name__ == '__main__':
    main()
