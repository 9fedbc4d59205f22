"""Make a small classification data set in ImageNet's layout.

    python tools/make_mini_digits.py data/mini_digits

Enlarges scikit-learn's handwritten digits from 8 x 8 to 64 x 64 pixels. As in ImageNet,
each split has one folder per class: `train/3/0042.png`.
"""

import argparse
from pathlib import Path

import cv2
from tqdm import tqdm

from parts.mini_set import new_folder
from parts.output import fail

SIDE = 64
TRAIN = 1500  # of 1797; the writers of the last ones are not among the first


def main() -> None:
    """Write the data set and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to make')
    out = parser.parse_args().out
    try:
        # Only installed in the classification environment.
        from sklearn.datasets import load_digits
    except ImportError:
        fail('scikit-learn has the digits: make env-cls')
    digits = load_digits()
    with new_folder(out) as root:
        examples = zip(digits.images, digits.target.tolist())
        for number, (image, label) in enumerate(
            tqdm(examples, total=len(digits.images))
        ):
            split = 'train' if number < TRAIN else 'val'
            path = root / split / str(label) / f'{number:04}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            image = (image * 255 / 16).astype('uint8')
            image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
    print(f'{out}: {TRAIN} training and {number + 1 - TRAIN} validation images')


if __name__ == '__main__':
    main()
