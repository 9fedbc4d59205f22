"""Annotation files of COCO's format: what they say, and their images."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config

from ..engine.checks import type_name
from .datasets import (
    Split,
    annotation_file,
    classes_of,
    data_sets,
    image_folder,
    is_coco,
    listed,
    read_json,
    sample,
)
from .finding import Finding

IMAGES = 32  # that are opened


def check_annotations(cfg: Config) -> Iterator[Finding]:
    """Whether the annotation files are sound, have the classes, and masks if wanted."""
    done, images = {}, {}
    for split in data_sets(cfg):
        path = annotation_file(split)
        if not is_coco(split.kind) or not path.is_file() or path in done:
            continue
        done[path] = split
        found = list(check_file(split, wants_masks(split)))
        yield from found
        if any(finding.verdict == 'FAIL' for finding in found):
            continue
        data = read_json(path)
        images[split.name] = {image['file_name'] for image in data['images']}
        told = f'{len(data["images"])} images, {len(data["annotations"])} objects'
        yield Finding('ok', f'{split.name} data', told)
    folders = {split.name: image_folder(split) for split in done.values()}
    shared = images.get('train', set()) & images.get('val', set())
    if shared and folders['train'] == folders['val']:
        found = f'{len(shared)} images, such as {min(shared)}, are in both splits'
        mend = 'take them out of one of the annotation files'
        yield Finding('warn', 'train and val', found, mend)
    yield from check_metric(cfg)


def wants_masks(split: Split) -> bool:
    """Tell whether a split's pipeline loads masks."""
    return any(step.get('with_mask') for step in split.config.get('pipeline', ()))


def check_file(split: Split, masks: bool) -> Iterator[Finding]:
    """Examine one file; each finding names it and an id."""
    path, part = annotation_file(split), f'{split.name} data'
    try:
        data = read_json(path)
        images, objects, categories = (
            data[key] for key in ('images', 'annotations', 'categories')
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        found = f'{path} is not of the format of COCO: {type(error).__name__} {error}'
        yield Finding('FAIL', part, found, 'it holds images, annotations, categories')
        return

    def fail(found: str, mend: str, verdict: str = 'FAIL') -> Finding:
        return Finding(verdict, part, f'{path}: {found}', mend)

    for what, entries in (('image', images), ('annotation', objects)):
        ids = Counter(entry.get('id') for entry in entries)
        twice = [number for number, times in ids.items() if times > 1]
        if twice:
            yield fail(f'{what} id {twice[0]} occurs twice', 'give each its own id')
    yield from check_categories(split, categories, fail)
    yield from check_left_out(split, categories, objects, fail)
    named = {category['id'] for category in categories}
    sizes = {image['id']: image for image in images}
    wrong: dict[str, list[Any]] = {}
    for entry in objects:
        for problem in problems(entry, named, sizes, masks):
            wrong.setdefault(problem, []).append(entry.get('id'))
    for problem, ids in wrong.items():
        verdict, what, mend = PROBLEMS[problem]
        more = f' and {len(ids) - 1} more' if len(ids) > 1 else ''
        yield fail(f'annotation id {ids[0]}{more}: {what}', mend, verdict)
    wanted = {c['id'] for c in categories if c['name'] in classes_of(split)}
    if not any(entry.get('category_id') in wanted for entry in objects):
        yield fail("no object of the config's classes", 'check metainfo.classes')
    yield from check_images(split, images, fail)


# What may be wrong with an annotation: verdict, words, remedy.
PROBLEMS = {
    'category': ('FAIL', 'its category_id is not in categories', 'add the category'),
    'image': ('FAIL', 'its image_id is not in images', 'add the image or remove it'),
    'box': ('FAIL', 'its bbox is not four finite numbers', 'write x, y, width, height'),
    'empty': ('warn', 'its bbox has no area and is left out', 'remove or mend it'),
    'outside': (
        'warn',
        'its bbox lies outside of the image and is left out',
        'the format is x, y, width, height in pixels',
    ),
    'no mask': (
        'FAIL',
        'no segmentation, which the config loads (with_mask=True)',
        'add masks, or take a detector without a mask head',
    ),
    'polygon': (
        'FAIL',
        'a polygon of its segmentation has fewer than three points',
        'write x1, y1, x2, y2, x3, y3, ...',
    ),
}


def problems(
    entry: dict[str, Any],
    named: set[int],
    sizes: dict[int, dict[str, Any]],
    masks: bool,
) -> Iterator[str]:
    """List what is wrong with one annotation."""
    if entry.get('category_id') not in named:
        yield 'category'
    image = sizes.get(entry.get('image_id'))
    if image is None:
        yield 'image'
    box = entry.get('bbox')
    if not is_box(box):
        yield 'box'
    elif box[2] <= 0 or box[3] <= 0:
        yield 'empty'
    elif image and (
        min(box[0] + box[2], image['width']) <= max(box[0], 0)
        or min(box[1] + box[3], image['height']) <= max(box[1], 0)
    ):
        yield 'outside'
    if not masks or entry.get('iscrowd'):
        return
    segmentation = entry.get('segmentation')
    if not segmentation:
        yield 'no mask'
    elif isinstance(segmentation, list) and any(
        len(part) < 6 or len(part) % 2 for part in segmentation
    ):
        yield 'polygon'


def is_box(box: Any) -> bool:
    """Tell whether a box is four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(n, (int, float)) and math.isfinite(n) for n in box)
    )


def check_categories(
    split: Split, categories: list[Any], fail: Any
) -> Iterator[Finding]:
    """Whether the file has each class of the config, by its very name."""
    names, classes = [category['name'] for category in categories], classes_of(split)
    for missing in [name for name in classes if name not in names]:
        near = get_close_matches(missing, names, n=1, cutoff=0.6)
        mend = f'it has {near[0]!r}' if near else f'it has {", ".join(names[:10])}'
        yield fail(f'no category {missing!r}, a class of the config', mend)


def check_left_out(
    split: Split, categories: list[Any], objects: list[Any], fail: Any
) -> Iterator[Finding]:
    """Whether objects are left out since their category is no class of the config."""
    classes = classes_of(split)
    others = {c['id']: c['name'] for c in categories if c['name'] not in classes}
    counts = Counter(entry.get('category_id') for entry in objects)
    used = {others[number]: counts[number] for number in others if counts[number]}
    if used:
        first = ', '.join(f'{used[name]} of {name!r}' for name in list(used)[:5])
        found = f'objects of {len(used)} categories are left out: {first}'
        # A part of the categories may be meant.
        yield fail(found, 'add them to metainfo.classes if they are wanted', 'warn')


def check_images(split: Split, images: list[Any], fail: Any) -> Iterator[Finding]:
    """Open some images: there, readable, and as large as the file says."""
    readers = [type_name(step) for step in split.config.get('pipeline', ())]
    if 'LoadImageFromFile' not in readers:
        return
    for image in sample(images, IMAGES):
        path = image_folder(split) / image['file_name']
        if not path.is_file():
            yield fail(
                f'image id {image["id"]}: no {path}', 'set data_prefix, or add it'
            )
            continue
        read = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if read is None:
            yield fail(f'image id {image["id"]}: {path} cannot be read', 'replace it')
        elif read.shape[:2] != (image.get('height'), image.get('width')):
            told = f'{image.get("height")} x {image.get("width")}'
            found = f'{path} is {read.shape[0]} x {read.shape[1]}, the file says {told}'
            yield fail(f'image id {image["id"]}: {found}', 'correct the file')


def check_metric(cfg: Config) -> Iterator[Finding]:
    """Whether the metric reads the annotations of the data that it judges."""
    for name in ('val', 'test'):
        split = next(data_sets(cfg, name), None)
        for metric in listed(cfg.get(f'{name}_evaluator')):
            if type_name(metric) != 'CocoMetric' or split is None:
                continue
            given = metric.get('ann_file')
            if given and annotation_file(split).resolve() != Path(given).resolve():
                found = f'{name}_evaluator.ann_file is {given}'
                mend = f'the data set has {annotation_file(split)}'
                yield Finding('FAIL', f'{name} metric', found, mend)
            kinds = metric.get('metric', 'bbox')
            if 'segm' in kinds and not has_masks(cfg.model):
                mend = "metric='bbox', or a model with masks"
                found = "'segm' is measured, the model makes no masks"
                yield Finding('FAIL', f'{name} metric', found, mend)


def has_masks(model: Any) -> bool:
    """Tell whether a model makes masks, as far as its names say."""
    return 'mask' in str(model).lower() or 'Ins' in str(model.get('bbox_head', ''))
