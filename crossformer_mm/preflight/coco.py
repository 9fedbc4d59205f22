"""Check annotation files in COCO format, and their images."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import cv2
from mmengine.config import Config

from ..engine.checks import type_name
from .datasets import (
    Split,
    data_sets,
    read_json,
    sample,
    to_list,
)
from .finding import Finding

IMAGES = 32  # number of images to open


class CocoFile(NamedTuple):
    """The content of an annotation file, and the data set that reads it."""

    split: Split
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]

    def finding(self, text: str, remedy: str, verdict: str = 'FAIL') -> Finding:
        """Return a finding that names the file."""
        text = f'{self.split.annotation_file}: {text}'
        return self.split.finding(verdict, text, remedy)


def check_annotations(cfg: Config) -> Iterator[Finding]:
    """Check that annotation files are valid and have the classes and needed masks."""
    done: dict[Path, Split] = {}
    images: dict[str, set[str]] = {}
    for split in data_sets(cfg):
        path = split.annotation_file
        if not split.is_coco or not path.is_file() or path in done:
            continue
        done[path] = split
        try:
            data = read_json(path)
            keys = ('images', 'annotations', 'categories')
            file = CocoFile(split, *(data[key] for key in keys))
        except (ValueError, KeyError, TypeError) as error:
            text = f'{path} is not in the format of COCO: '
            text += f'{type(error).__name__} {error}'
            remedy = 'it needs images, annotations and categories'
            yield split.finding('FAIL', text, remedy)
            continue
        findings = list(check_file(file))
        yield from findings
        if any(finding.verdict == 'FAIL' for finding in findings):
            continue
        images[split.name] = {image['file_name'] for image in file.images}
        text = f'{len(file.images)} images, {len(file.annotations)} objects'
        yield split.finding('ok', text)
    folders = {split.name: split.image_folder for split in done.values()}
    shared = images.get('train', set()) & images.get('val', set())
    if shared and folders['train'] == folders['val']:
        text = f'{len(shared)} images, such as {min(shared)}, are in both splits'
        remedy = 'take them out of one of the annotation files'
        yield Finding('warn', 'train and val', text, remedy)
    yield from check_metric(cfg)


def check_file(file: CocoFile) -> Iterator[Finding]:
    """Check one file; each finding names it and an id."""
    for what, entries in (('image', file.images), ('annotation', file.annotations)):
        ids = Counter(entry.get('id') for entry in entries)
        duplicates = [number for number, times in ids.items() if times > 1]
        if duplicates:
            text = f'{what} id {duplicates[0]} occurs twice'
            yield file.finding(text, 'give each its own id')
    yield from check_categories(file)
    named = {category['id'] for category in file.categories}
    sizes = {image['id']: image for image in file.images}
    pipeline = file.split.config.get('pipeline', ())
    masks = any(step.get('with_mask') for step in pipeline)
    wrong = defaultdict(list)
    for entry in file.annotations:
        for problem in list_problems(entry, named, sizes, masks):
            wrong[problem].append(entry.get('id'))
    for (verdict, text, remedy), numbers in wrong.items():
        more = f' and {len(numbers) - 1} more' if len(numbers) > 1 else ''
        yield file.finding(f'annotation id {numbers[0]}{more}: {text}', remedy, verdict)
    if 'LoadImageFromFile' in map(type_name, pipeline):
        for image in sample(file.images, IMAGES):
            yield from check_image(file, image)


def check_categories(file: CocoFile) -> Iterator[Finding]:
    """Check that the file has each class of the config, and objects of them."""
    classes = file.split.classes
    names = {category['id']: category['name'] for category in file.categories}
    for missing in [name for name in classes if name not in names.values()]:
        near = get_close_matches(missing, names.values(), n=1, cutoff=0.6)
        available = repr(near[0]) if near else ', '.join(list(names.values())[:10])
        text = f'no category {missing!r}, a class of the config'
        yield file.finding(text, f'it has {available}')
    counts = Counter(names.get(entry.get('category_id')) for entry in file.annotations)
    if not any(counts[name] for name in classes):
        text = "no object of the config's classes"
        yield file.finding(text, 'check metainfo.classes')
    others = {n: count for n, count in counts.items() if n and n not in classes}
    if others:
        examples = ', '.join(f'{others[name]} of {name!r}' for name in list(others)[:5])
        text = f'objects of {len(others)} categories are left out: {examples}'
        # This may be intended.
        remedy = 'add them to metainfo.classes if they are wanted'
        yield file.finding(text, remedy, 'warn')


def list_problems(
    entry: dict[str, Any],
    categories: set[int],
    images: dict[int, dict[str, Any]],
    masks: bool,
) -> Iterator[tuple[str, str, str]]:
    """List the problems of an annotation: verdict, text, remedy."""
    if entry.get('category_id') not in categories:
        yield 'FAIL', 'its category_id is not in categories', 'add the category'
    image = images.get(entry.get('image_id', -1))
    if image is None:
        yield 'FAIL', 'its image_id is not in images', 'add the image or remove it'
    box = entry.get('bbox')
    if not is_box(box):
        text = 'its bbox is not four finite numbers'
        yield 'FAIL', text, 'write x, y, width, height'
    elif box[2] <= 0 or box[3] <= 0:
        yield 'warn', 'its bbox has no area and is left out', 'remove or correct it'
    elif image and (
        min(box[0] + box[2], image['width']) <= max(box[0], 0)
        or min(box[1] + box[3], image['height']) <= max(box[1], 0)
    ):
        text = 'its bbox is outside of the image and is left out'
        yield 'warn', text, 'the format is x, y, width, height in pixels'
    if not masks or entry.get('iscrowd'):
        return
    mask = entry.get('segmentation')
    if not mask:
        text = 'no segmentation, which the config loads (with_mask=True)'
        yield 'FAIL', text, 'add masks, or take a detector without a mask head'
    elif isinstance(mask, list) and any(len(p) < 6 or len(p) % 2 for p in mask):
        text = 'a polygon of its segmentation has fewer than three points'
        yield 'FAIL', text, 'write x1, y1, x2, y2, x3, y3, ...'


def is_box(box: object) -> TypeGuard[list[float]]:
    """Return whether a box is four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(n, (int, float)) and math.isfinite(n) for n in box)
    )


def check_image(file: CocoFile, image: dict[str, Any]) -> Iterator[Finding]:
    """Check that an image exists, is readable, and has the size given in the file."""
    path = file.split.image_folder / image['file_name']
    name = f'image id {image["id"]}'
    if not path.is_file():
        yield file.finding(f'{name}: no {path}', 'set data_prefix, or add it')
        return
    read = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if read is None:
        yield file.finding(f'{name}: {path} cannot be read', 'replace it')
    elif read.shape[:2] != (image.get('height'), image.get('width')):
        height, width = read.shape[:2]
        given = f'{image.get("height")} x {image.get("width")}'
        text = f'{name}: {path} is {height} x {width}, the file says {given}'
        yield file.finding(text, 'correct the file')


def check_metric(cfg: Config) -> Iterator[Finding]:
    """Check that the metric reads the annotations of its data set."""
    for name in ('val', 'test'):
        split = next(data_sets(cfg, name), None)
        for metric in to_list(cfg.get(f'{name}_evaluator')):
            if type_name(metric) != 'CocoMetric' or split is None:
                continue
            given = metric.get('ann_file')
            if given and split.annotation_file.resolve() != Path(given).resolve():
                text = f'{name}_evaluator.ann_file is {given}'
                remedy = f'the data set has {split.annotation_file}'
                yield Finding('FAIL', f'{name} metric', text, remedy)
            if 'segm' in metric.get('metric', 'bbox') and not has_masks(cfg.model):
                text = "'segm' is measured, the model makes no masks"
                remedy = "metric='bbox', or a model with masks"
                yield Finding('FAIL', f'{name} metric', text, remedy)


def has_masks(model: Any) -> bool:
    """Return whether a model predicts masks, judging by the names of its parts."""
    return 'mask' in str(model).lower() or 'Ins' in str(model.get('bbox_head', ''))
