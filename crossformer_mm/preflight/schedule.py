"""Check learning rate, warm-up and length of the training."""

import math
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..engine.checks import type_name
from .datasets import data_sets, images_with_objects, read_json, to_list
from .finding import Finding

ADAM_LIMIT = 2e-3  # above it Adam diverges with nearly any backbone
SGD_LIMIT = 0.5
WARM_UPS = ('LinearLR', 'ConstantLR')


def check_schedule(cfg: Config) -> Iterator[Finding]:
    """Check the schedule against the size of the data and the batch."""
    yield from check_optimizer(cfg)
    batch = cfg.train_dataloader.get('batch_size', 1) * cfg.get('processes', 1)
    yield from check_batch(cfg, batch)
    images = count_images(cfg)
    if images is None:
        return
    if not images:
        remedy = 'see the findings on its data'
        yield Finding('FAIL', 'iterations', 'no image to train on', remedy)
        return
    epoch_length = max(math.ceil(images / batch), 1)
    loop: dict[str, Any] = cfg.get('train_cfg') or {}
    by_epoch = 'max_epochs' in loop
    total = loop['max_epochs'] * epoch_length if by_epoch else loop.get('max_iters', 0)
    text = f'{total:,} iterations of {batch} of {images:,} images'
    text += f', {loop["max_epochs"]} epochs' if by_epoch else ''
    yield Finding('note', 'iterations', text)
    epochs = loop['max_epochs'] if by_epoch else total / epoch_length
    yield from check_schedulers(cfg, total, epochs)
    yield from check_intervals(cfg, loop, by_epoch)


def check_optimizer(cfg: Config) -> Iterator[Finding]:
    """Check that the learning rate is in the usual range of the optimizer."""
    optimizer = cfg.get('optim_wrapper', {}).get('optimizer', {})
    kind, rate = type_name(optimizer), optimizer.get('lr', 0)
    limit = ADAM_LIMIT if kind.startswith('Adam') else SGD_LIMIT
    if kind == 'SGD' and 'CrossFormer' in str(cfg.model.get('backbone', {})):
        text = 'SGD; CrossFormer was trained with AdamW'
        remedy = "optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, ...)"
        yield Finding('warn', 'optimizer', text, remedy)
    elif rate > limit:
        text = f'lr={rate} is too high for {kind}'
        yield Finding('FAIL', 'learning rate', text, f'take less than {limit}')
    else:
        yield Finding('ok', 'optimizer', f'{kind}, lr={rate}')


def check_batch(cfg: Config, batch: int) -> Iterator[Finding]:
    """Check that the learning rate fits the batch size."""
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    if not base or base == batch or scaling.get('enable'):
        return
    text = f'for a batch of {base}; here it is {batch}'
    rate = cfg.get('optim_wrapper', {}).get('optimizer', {}).get('lr', 0)
    remedy = f'--auto-scale-lr, or lr={rate * batch / base:.3g}'
    # The number of processes is known only if the user gave it.
    verdict = 'warn' if 'processes' in cfg else 'note'
    if verdict == 'note':
        remedy += '; for N processes examine with --processes N'
    yield Finding(verdict, 'learning rate', text, remedy)


def count_images(cfg: Config) -> int | None:
    """Count the training images after the data set's filters; None if unknown."""
    total = 0
    for split in data_sets(cfg, 'train'):
        if not split.is_coco:
            try:
                total += len(DATASETS.build(split.config))
            except Exception:  # reported by the checks of the data
                return None
            continue
        path = split.annotation_file
        if not path.is_file():
            return None
        try:
            total += count_coco(split.config, read_json(path), split.classes)
        except (ValueError, KeyError, TypeError):  # likewise
            return None
    loader = cfg.train_dataloader.get('dataset') or {}
    return total * loader.get('times', 1)


def count_coco(config: dict[str, Any], data: Any, classes: tuple[str, ...]) -> int:
    """Count the images of an annotation file that are used in training."""
    filters, used = config.get('filter_cfg') or {}, images_with_objects(data, classes)
    smallest = filters.get('min_size', 0)
    return sum(
        (image['id'] in used or not filters.get('filter_empty_gt'))
        and min(image['width'], image['height']) >= smallest
        for image in data['images']
    )


def check_schedulers(cfg: Config, total: int, epochs: float) -> Iterator[Finding]:
    """Check that warm-up and milestones are within the training."""
    for entry in to_list(cfg.get('param_scheduler')):
        in_epochs = entry.get('by_epoch', True)
        length = epochs if in_epochs else total
        unit = 'epochs' if in_epochs else 'iterations'
        kind, end = type_name(entry), entry.get('end')
        late = [m for m in entry.get('milestones', ()) if m >= length]
        if kind in WARM_UPS:
            if end and end >= length:
                text = f'warm-up of {end} {unit}, training of {length:g}'
                remedy = f'end={max(int(length) // 10, 1)}'
                yield Finding('warn', 'warm-up', text, remedy)
        elif late:
            text = f'milestones {late} after the last of {length:g} {unit}'
            remedy = 'put them into the training, or lengthen it'
            yield Finding('warn', 'param_scheduler', text, remedy)
        elif end and end > 1.01 * length and 'milestones' not in entry:
            text = f'{kind} ends at {end} {unit}, the training at {length:g}'
            yield Finding('warn', 'param_scheduler', text, f'end={length:g}')


def check_intervals(cfg: Config, loop: Any, by_epoch: bool) -> Iterator[Finding]:
    """Check that the training validates and saves a checkpoint."""
    length = loop['max_epochs'] if by_epoch else loop.get('max_iters', 0)
    validates = loop.get('val_interval', 1)
    if cfg.get('val_dataloader') and validates > length:
        text = f'val_interval={validates} in a training of {length}: never'
        yield Finding('warn', 'validation', text, f'val_interval={length}')
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    interval = hook.get('interval', 1)
    same_unit = hook.get('by_epoch', True) == by_epoch
    if same_unit and interval > length and not hook.get('save_last', True):
        text = f'interval={interval} in a training of {length}: none is saved'
        yield Finding('warn', 'checkpoint', text, f'interval={length}')
