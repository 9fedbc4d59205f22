"""Check the values in label images of MMSegmentation."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from numpy.typing import NDArray

from .classes import IGNORE
from .datasets import Split, data_sets, sample
from .finding import Finding

IMAGES = 16  # number of images to open


def check_label_maps(cfg: Config) -> Iterator[Finding]:
    """Check that label images exist, fit their images, and have valid values."""
    done = set()
    for split in data_sets(cfg):
        key = str(split.config.get('data_prefix')), str(split.config.get('ann_file'))
        if split.has_label_maps and key not in done:
            done.add(key)
            yield from check_split(split)


def check_split(split: Split) -> Iterator[Finding]:
    """Check a sample of the images and label images of a split."""
    try:
        dataset = DATASETS.build(split.config)
    except Exception as error:  # also raised for an empty list
        remedy = 'set img_suffix, data_prefix or ann_file'
        text = f'no images: {type(error).__name__}: {error}'
        yield split.finding('FAIL', text, remedy)
        return
    rows = [dataset.get_data_info(i) for i in sample(range(len(dataset)), IMAGES)]
    maps = [
        cv2.imread(str(row.get('seg_map_path')), cv2.IMREAD_UNCHANGED) for row in rows
    ]
    faults = [fault for pair in zip(rows, maps) for fault in check_pair(split, *pair)]
    if not faults:
        faults = list(check_zero_label(split, rows[0], maps))
    # Of the files with the same fault, name the first.
    yield from {fault.remedy: fault for fault in reversed(faults)}.values()
    if not faults:
        yield split.finding('ok', f'{len(dataset)} images')


def check_pair(
    split: Split, row: dict[str, Any], labels: NDArray[Any] | None
) -> Iterator[Finding]:
    """Check an image and its labels."""
    path = row.get('seg_map_path')
    image = cv2.imread(row['img_path'])
    if image is None:
        yield split.finding('FAIL', f'{row["img_path"]} cannot be read', 'replace it')
        return
    if labels is None:
        remedy = 'set seg_map_suffix and data_prefix, or add it'
        yield split.finding('FAIL', f'no label image {path}', remedy)
        return
    if labels.ndim == 3 and not (labels == labels[..., :1]).all():
        remedy = 'write one number per pixel, the class, as an 8-bit image'
        yield split.finding('FAIL', f'{path} has colours', remedy)
        return
    if labels.shape[:2] != image.shape[:2]:
        text = f'{path} is {labels.shape[:2]}, its image {image.shape[:2]}'
        yield split.finding('FAIL', text, 'redraw it')
    ignored = split.config.get('ignore_index', IGNORE)
    reduce_zero = reduces_zero(row)
    values = set(np.unique(labels).tolist())
    if reduce_zero:
        values = {255 if value in (0, 255) else value - 1 for value in values}
    label_map = row.get('label_map') or {}  # if the config uses a subset of the classes
    values = {label_map.get(value, value) % 256 for value in values} - {ignored}
    count = len(split.classes)
    too_high = sorted(value for value in values if value >= count)
    if count and too_high:
        remedy = f'labels go from 0 to {count - 1}, {ignored} is ignored'
        if too_high == [count] and not reduce_zero:
            remedy += '; if they start from 1, set reduce_zero_label=True'
        text = f'{path} holds {too_high[:5]}, beyond the {count} classes'
        yield split.finding('FAIL', text, remedy)
    for step in split.config.get('pipeline', ()):
        given = step.get('reduce_zero_label')
        if step.type == 'LoadAnnotations' and given not in (None, reduce_zero):
            text = f'reduce_zero_label is {given} in the pipeline, '
            text += f'{reduce_zero} in the data set'
            yield split.finding('FAIL', text, 'the same in both')


def reduces_zero(row: dict[str, Any]) -> bool:
    """Return whether 0 is unlabelled and 1 is the first class in a data set."""
    return bool(row.get('reduce_zero_label'))


def check_zero_label(
    split: Split, row: dict[str, Any], maps: Sequence[NDArray[Any] | None]
) -> Iterator[Finding]:
    """Warn if 0 is a class in the label images although the config ignores it."""
    count = len(split.classes)
    if not reduces_zero(row) or row.get('label_map') or not count:
        return
    known = [labels for labels in maps if labels is not None]
    values = set(np.unique(np.concatenate([m.ravel() for m in known])).tolist())
    # Labels that start from 1 reach the number of classes; a rare class may be missing.
    if values - {255} == set(range(count)):
        text = f'labels go from 0 to {count - 1}, but reduce_zero_label ignores 0'
        remedy = 'reduce_zero_label=False in the data set and its pipeline'
        yield split.finding('warn', text, remedy)
