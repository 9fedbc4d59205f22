"""Draw a small instance-segmentation data set in COCO's layout.

    python tools/make_mini_coco.py data/mini_coco

Any config for COCO runs on it if its `data_root` points there: folders, file names, the
80 categories and the annotation fields are those of COCO 2017. Five of the categories
are used. The scenes come from `parts/mini_scenes.py` and depend only on the seed.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rich
from pycocotools import mask as coco_mask
from rich.progress import track
from rich.table import Table

from parts.mini_scenes import MAX_OBJECTS, SHAPES, SUPERSAMPLE, Scene, make_scene
from parts.mini_set import new_folder, parse_args, write_jpeg

SUPERCATEGORIES = {  # in the order of COCO's ids
    'person': 'person',
    'vehicle': 'bicycle, car, motorcycle, airplane, bus, train, truck, boat',
    'outdoor': 'traffic light, fire hydrant, stop sign, parking meter, bench',
    'animal': 'bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe',
    'accessory': 'backpack, umbrella, handbag, tie, suitcase',
    'sports': 'frisbee, skis, snowboard, sports ball, kite, baseball bat, '
    'baseball glove, skateboard, surfboard, tennis racket',
    'kitchen': 'bottle, wine glass, cup, fork, knife, spoon, bowl',
    'food': 'banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, '
    'donut, cake',
    'furniture': 'chair, couch, potted plant, bed, dining table, toilet',
    'electronic': 'tv, laptop, mouse, remote, keyboard, cell phone',
    'appliance': 'microwave, oven, toaster, sink, refrigerator',
    'indoor': 'book, clock, vase, scissors, teddy bear, hair drier, toothbrush',
}
ID_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # categories that COCO dropped
SMALLEST_PIECE = 4  # pixels; smaller visible parts of an object get no polygon
TOLERANCE = 0.25  # pixels that a polygon may deviate from the drawn outline
SIZES = {'small': 32**2, 'medium': 96**2, 'large': float('inf')}  # areas, as in COCO
INFO = {
    'description': 'Mini COCO: drawn scenes in the layout of COCO 2017',
    'url': '',
    'version': '1.0',
    'year': 2017,
    'contributor': 'crossformer_mm',
    'date_created': '2017/01/01',  # fixed, so that equal seeds give equal files
}
LICENSES = [
    {
        'url': 'https://www.apache.org/licenses/LICENSE-2.0',
        'id': 1,
        'name': 'Apache License 2.0',
    }
]


def main() -> None:
    """Write the data set and print a summary."""
    args = parse_args(__doc__.splitlines()[0])
    train_ids = range(1, args.train + 1)
    val_ids = range(args.train + 1, args.train + args.val + 1)
    with new_folder(args.out) as root:
        train = write_split(root, 'train2017', train_ids, [args.seed, 0], args.size)
        val = write_split(root, 'val2017', val_ids, [args.seed, 1], args.size)
    print_summary('train2017', train)
    print_summary('val2017', val)
    print(f'{args.out}: images of {args.size} x {args.size} pixels, seed {args.seed}')


def write_split(
    root: Path, name: str, ids: range, seed: list[int], size: int
) -> dict[str, Any]:
    """Write one split's images and annotations; return the annotations."""
    folder = root / name
    folder.mkdir(parents=True)
    images, annotations = [], []
    for index, image_id in enumerate(track(ids, description=name)):
        scene = make_scene([*seed, index], size)
        image = describe_image(image_id, size)
        write_jpeg(folder / image['file_name'], scene.image)
        images.append(image)
        annotations += annotate(scene, image_id)
    content = {
        'info': INFO,
        'licenses': LICENSES,
        'images': images,
        'annotations': annotations,
        'categories': categories(),
    }
    target = root / 'annotations' / f'instances_{name}.json'
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content))
    return content


def describe_image(image_id: int, size: int) -> dict[str, Any]:
    """Return the COCO entry of an image."""
    return {
        'license': 1,
        'file_name': f'{image_id:012d}.jpg',
        'coco_url': '',
        'height': size,
        'width': size,
        'date_captured': '2017-01-01 00:00:00',
        'flickr_url': '',
        'id': image_id,
    }


def annotate(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """Return the COCO annotations of a scene."""
    ids = {category['name']: category['id'] for category in categories()}
    size = len(scene.image)
    annotations = []
    for index, (name, visible) in enumerate(scene.objects):
        polygons = trace(visible)
        pieces = coco_mask.frPyObjects(polygons, size, size)
        mask = coco_mask.merge(pieces)
        annotations.append(
            {
                'segmentation': polygons,
                'area': float(coco_mask.area(mask)),
                'iscrowd': 0,
                'image_id': image_id,
                'bbox': coco_mask.toBbox(mask).tolist(),
                'category_id': ids[name],
                'id': image_id * MAX_OBJECTS + index,
            }
        )
    return annotations


def trace(visible: np.ndarray) -> list[list[float]]:
    """Return a polygon in pixels for each piece of a supersampled mask."""
    contours, _ = cv2.findContours(
        visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    polygons = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, TOLERANCE * SUPERSAMPLE, closed=True)
        corners = (corners + 0.5) / SUPERSAMPLE  # OpenCV returns pixel centres
        if cv2.contourArea(corners.astype(np.float32)) >= SMALLEST_PIECE:
            polygons.append(corners.ravel().round(2).tolist())
    return polygons


def categories() -> list[dict[str, Any]]:
    """Return COCO's 80 categories."""
    ids = (i for i in range(1, 91) if i not in ID_GAPS)
    return [
        {'supercategory': group, 'id': next(ids), 'name': name}
        for group, names in SUPERCATEGORIES.items()
        for name in names.split(', ')
    ]


def print_summary(name: str, content: dict[str, Any]) -> None:
    """Print the number of objects of each class and size in a split."""
    names = {category['id']: category['name'] for category in content['categories']}
    counts = Counter(
        (names[entry['category_id']], size_of(entry['area']))
        for entry in content['annotations']
    )
    images, objects = len(content['images']), len(content['annotations'])
    table = Table('class', title=f'{name}: {images} images, {objects} objects')
    for size in (*SIZES, 'all'):
        table.add_column(size, justify='right')
    for label in SHAPES:
        row = [counts[label, size] for size in SIZES]
        table.add_row(label, *map(str, [*row, sum(row)]))
    rich.print(table)


def size_of(area: float) -> str:
    """Return COCO's name for an area: small, medium or large."""
    return next(size for size, limit in SIZES.items() if area < limit)


if __name__ == '__main__':
    main()
