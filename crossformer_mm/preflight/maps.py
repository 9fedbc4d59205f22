"""Label images of MMSegmentation: the values in them."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from numpy.typing import NDArray

from .classes import IGNORE
from .datasets import Split, classes_of, data_sets, has_label_maps, sample
from .finding import Finding

IMAGES = 16  # that are opened


def check_label_maps(cfg: Config) -> Iterator[Finding]:
    """Check that label images exist, fit their images, and hold known values."""
    done = set()
    for split in data_sets(cfg):
        place = str(split.config.get('data_prefix')), str(split.config.get('ann_file'))
        if has_label_maps(split.kind) and place not in done:
            done.add(place)
            yield from check_split(split)


def check_split(split: Split) -> Iterator[Finding]:
    """Check a sample of the images and label images of a split."""
    part = f'{split.name} data'
    try:
        dataset = DATASETS.build(split.config)
    except Exception as error:  # of an empty list, too
        remedy = 'set img_suffix, data_prefix or ann_file'
        text = f'no images: {type(error).__name__}: {error}'
        yield Finding('FAIL', part, text, remedy)
        return
    rows = [dataset.get_data_info(i) for i in sample(range(len(dataset)), IMAGES)]
    maps = [
        cv2.imread(str(row.get('seg_map_path')), cv2.IMREAD_UNCHANGED) for row in rows
    ]
    faults = [fault for pair in zip(rows, maps) for fault in check_pair(split, *pair)]
    if not faults:
        faults = list(check_zero(split, rows[0], maps))
    # Of the files with the same fault, name the first.
    by_remedy = {fault[-1]: fault for fault in reversed(faults)}
    for verdict, text, remedy in by_remedy.values():
        yield Finding(verdict, part, text, remedy)
    if not faults:
        yield Finding('ok', part, f'{len(dataset)} images')


def check_pair(
    split: Split, row: dict[str, Any], labels: NDArray[Any] | None
) -> Iterator[tuple[str, str, str]]:
    """List what is wrong with an image and its labels: verdict, text, remedy."""
    path = row.get('seg_map_path')
    image = cv2.imread(row['img_path'])
    if image is None:
        yield 'FAIL', f'{row["img_path"]} cannot be read', 'replace it'
        return
    if labels is None:
        remedy = 'set seg_map_suffix and data_prefix, or add it'
        yield 'FAIL', f'no label image {path}', remedy
        return
    if labels.ndim == 3 and not (labels == labels[..., :1]).all():
        remedy = 'write one number per pixel, the class, as an 8-bit image'
        yield 'FAIL', f'{path} has colours', remedy
        return
    if labels.shape[:2] != image.shape[:2]:
        text = f'{path} is {labels.shape[:2]}, its image {image.shape[:2]}'
        yield 'FAIL', text, 'redraw it'
    ignored = split.config.get('ignore_index', IGNORE)
    zero = reduces_zero(row)
    values = set(np.unique(labels).tolist())
    if zero:
        values = {255 if value in (0, 255) else value - 1 for value in values}
    mapped = row.get('label_map') or {}  # where the config takes a part of the classes
    values = {mapped.get(value, value) % 256 for value in values} - {ignored}
    count = len(classes_of(split))
    high = sorted(value for value in values if value >= count)
    if count and high:
        remedy = f'labels go from 0 to {count - 1}, {ignored} is ignored'
        if high == [count] and not zero:
            remedy += '; if they start from 1, set reduce_zero_label=True'
        yield 'FAIL', f'{path} holds {high[:5]}, beyond the {count} classes', remedy
    for step in split.config.get('pipeline', ()):
        given = step.get('reduce_zero_label')
        if step.type == 'LoadAnnotations' and given not in (None, zero):
            text = (
                f'reduce_zero_label is {given} in the pipeline, {zero} in the data set'
            )
            yield 'FAIL', text, 'the same in both'


def reduces_zero(row: dict[str, Any]) -> bool:
    """Return whether a data set takes 0 for unlabelled and 1 for its first class."""
    return bool(row.get('reduce_zero_label'))


def check_zero(
    split: Split, row: dict[str, Any], maps: Sequence[NDArray[Any] | None]
) -> Iterator[tuple[str, str, str]]:
    """Warn if 0 is a class in the label images although the config ignores it."""
    count = len(classes_of(split))
    if not reduces_zero(row) or row.get('label_map') or not count:
        return
    known = [labels for labels in maps if labels is not None]
    values = set(np.unique(np.concatenate([m.ravel() for m in known])).tolist())
    # Labels that start from 1 reach the number of classes; a rare class may be missing.
    if values - {255} == set(range(count)):
        text = f'labels go from 0 to {count - 1}, but reduce_zero_label ignores 0'
        yield 'warn', text, 'reduce_zero_label=False in the data set and its pipeline'
