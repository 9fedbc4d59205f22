"""Label images of MMSegmentation: what values they hold."""

from collections.abc import Iterator

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from .classes import IGNORE
from .datasets import Split, classes_of, data_sets, has_label_maps, sample
from .finding import Finding

IMAGES = 16  # that are opened


def check_label_maps(cfg: Config) -> Iterator[Finding]:
    """Whether label images are there, of their image's size, and hold known values."""
    done = set()
    for split in data_sets(cfg):
        place = str(split.config.get('data_prefix')), str(split.config.get('ann_file'))
        if has_label_maps(split.kind) and place not in done:
            done.add(place)
            yield from check_split(split)


def check_split(split: Split) -> Iterator[Finding]:
    """Examine some images and label images of a split."""
    part = f'{split.name} data'
    try:
        dataset = DATASETS.build(split.config)
    except Exception as error:  # of an empty list, too
        mend = 'set img_suffix, data_prefix or ann_file'
        found = f'no images: {type(error).__name__}: {error}'
        yield Finding('FAIL', part, found, mend)
        return
    rows = [dataset.get_data_info(i) for i in range(len(dataset))]
    found = [f for row in sample(rows, IMAGES) for f in check_pair(split, row)]
    # The same fault in many files is told once.
    yield from {f.mend: f for f in reversed(found)}.values()
    if not found:
        found = list(check_zero(split, sample(rows, IMAGES)))
        yield from found
    if not found:
        yield Finding('ok', part, f'{len(dataset)} images')


def check_pair(split: Split, row: dict) -> Iterator[Finding]:
    """Examine an image and its label image."""

    def fail(found: str, mend: str) -> Finding:
        return Finding('FAIL', f'{split.name} data', found, mend)

    path = row.get('seg_map_path')
    image = cv2.imread(row['img_path'])
    if image is None:
        yield fail(f'{row["img_path"]} cannot be read', 'replace it')
        return
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path else None
    if labels is None:
        mend = 'set seg_map_suffix and data_prefix, or add it'
        yield fail(f'no label image {path}', mend)
        return
    if labels.ndim == 3 and not (labels == labels[..., :1]).all():
        mend = 'write one number a pixel, the class, as an 8-bit image'
        yield fail(f'{path} has colours', mend)
        return
    labels = labels[..., 0] if labels.ndim == 3 else labels
    if labels.shape != image.shape[:2]:
        yield fail(
            f'{path} is {labels.shape}, its image {image.shape[:2]}', 'redraw it'
        )
    values = set(np.unique(labels).tolist())
    ignored = split.config.get('ignore_index', IGNORE)
    zero = reduces_zero(row)
    if zero:
        values = {255 if value in (0, 255) else value - 1 for value in values}
    mapped = row.get('label_map') or {}  # where the config takes a part of the classes
    values = {mapped.get(value, value) % 256 for value in values} - {ignored}
    count = len(classes_of(split))
    high = sorted(value for value in values if value >= count)
    if count and high:
        mend = f'labels go from 0 to {count - 1}, {ignored} is ignored'
        if high == [count] and not zero:
            mend = f'{mend}; where they go from 1 on, set reduce_zero_label=True'
        yield fail(f'{path} holds {high[:5]}, beyond the {count} classes', mend)
    loads = [s for s in split.config.get('pipeline', ()) if s.type == 'LoadAnnotations']
    for step in loads:
        given = step.get('reduce_zero_label')
        if given is not None and bool(given) != zero:
            found = (
                f'reduce_zero_label is {given} in the pipeline, {zero} in the data set'
            )
            yield fail(found, 'the same in both')


def reduces_zero(row: dict) -> bool:
    """Tell whether a data set takes 0 for unlabelled and 1 for its first class."""
    return bool(row.get('reduce_zero_label'))


def check_zero(split: Split, rows: list[dict]) -> Iterator[Finding]:
    """Whether 0 is a class of the label images although the config ignores it."""
    count = len(classes_of(split))
    if not reduces_zero(rows[0]) or rows[0].get('label_map') or not count:
        return
    maps = [cv2.imread(str(row['seg_map_path']), cv2.IMREAD_UNCHANGED) for row in rows]
    values = {value for labels in maps for value in np.unique(labels).tolist()}
    # Labels from 1 on reach the number of classes; a rare class may be missing.
    if values - {255} == set(range(count)):
        found = f'labels go from 0 to {count - 1}, but reduce_zero_label ignores 0'
        mend = 'reduce_zero_label=False in the data set and its pipeline'
        yield Finding('warn', f'{split.name} data', found, mend)
