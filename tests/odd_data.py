"""Small data sets with unusual sizes, names and ids, as users have them."""

import json
from pathlib import Path

import cv2
import numpy as np

# Portrait, landscape, square; the last image has no objects.
SIZES = ((90, 60), (64, 120), (70, 70), (60, 80))
STEMS = ('a  photo', 'Größe 1', '第三张', "it's empty")


def draw(size, label, count, rng):
    """Draw an image with one rectangle of a class; return the image and the box."""
    height, width = size
    image = rng.integers(90, 120, (height, width, 3), dtype=np.uint8)
    left, top = int(rng.integers(2, width // 3)), int(rng.integers(2, height // 3))
    box = (left, top, width // 2, height // 2)
    shade = 255 * label // max(1, count - 1)
    colour = (shade, 255 - shade, 60 + 150 * (label % 2))
    cv2.rectangle(image, (left, top, *box[2:]), colour, -1)
    return image, box


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def make_coco(root: Path, classes, masks=True):
    """Write a detection set in COCO's layout with every class at least once."""
    for split in ('train2017', 'val2017'):
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(4):
            size = SIZES[number]
            # Differs from the index, as in real files.
            image_id = 7 * number + 3
            suffix = '.png' if number % 2 else '.JPG'
            name = f'{STEMS[number]} {number}{suffix}'
            image, box = draw(size, number % len(classes), len(classes), rng)
            if number == 3:
                image[:] = 100
            write_image(root / split / name, image)
            entry = dict(id=image_id, file_name=name, height=size[0], width=size[1])
            images.append(entry)
            labels = range(number, len(classes), 3)
            for label in labels if number != 3 else ():
                left, top, width, height = box
                corners = [left, top, left + width, top, left + width, top + height]
                corners += [left, top + height]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        category_id=label + 1,
                        bbox=box,
                        area=width * height,
                        iscrowd=0,
                    )
                    | (dict(segmentation=[corners]) if masks else {})
                )
        content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=i, name=n) for i, n in enumerate(classes, 1)],
        )
        file = root / 'annotations' / f'instances_{split}.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))


def make_labels(root: Path, classes, void, suffix):
    """Write a segmentation set: images, and label images with void outlines."""
    for split in ('train', 'val'):
        rng = np.random.default_rng(0)
        for number, (size, stem) in enumerate(zip(SIZES, STEMS)):
            label = (13 * number + 1) % len(classes)
            image, (left, top, width, height) = draw(size, label, len(classes), rng)
            labels = np.zeros(size, np.uint8)
            cv2.rectangle(labels, (left - 1, top - 1, width + 2, height + 2), void, -1)
            cv2.rectangle(labels, (left, top, width, height), label, -1)
            if number == 3:
                labels[:] = void
            write_image(root / 'images' / split / f'{stem}{suffix}', image)
            write_image(root / 'labels' / split / f'{stem}.png', labels)
