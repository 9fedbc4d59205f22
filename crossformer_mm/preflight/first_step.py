"""A step of training, a prediction and its evaluation, on small real images."""

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from torch import nn

from ..models import CrossFormer
from ..swap.dry_run import build_model, find_keys, first_line, predict, set_size, step
from .datasets import Split, annotation_file, data_sets, is_coco, listed, small_coco
from .finding import Finding
from .network import check_strides

SIDE = 192  # of the images: a step takes seconds
GIGABYTE = 1024**3


def check_step(cfg: Config) -> Iterator[Finding]:
    """Whether a step of training, a prediction and its evaluation work."""
    small = Config(cfg.to_dict())
    full = largest_image(small.train_dataloader)
    shrink(small._cfg_dict)
    set_size(small, SIDE)
    try:
        model = build_model(small)
    except Exception as error:
        yield failed('model', error, 'correct its arguments')
        return
    if hasattr(model, 'backbone') and small.default_scope == 'mmdet':
        try:
            yield from check_strides(small, model)
        except Exception as error:
            yield failed('model', error, 'make neck and heads fit the backbone')
            return
    with TemporaryDirectory() as folder:
        train = small_set(small, 'train', Path(folder))
        if train is None:
            return  # told by the checks of the data
        yield from train_step(small, model, train, full)
        yield from evaluate(small, model, Path(folder))


def failed(part: str, error: Exception, mend: str) -> Finding:
    """Return the finding of an error."""
    return Finding('FAIL', part, first_line(error), mend)


def small_set(cfg: Config, name: str, folder: Path) -> ConfigDict | None:
    """Return the config of a split with a few images, None if its files are missing."""
    split = next(data_sets(cfg, name), None)
    if split is None:
        return None
    if not is_coco(split.kind):
        return ConfigDict(split.config, indices=2)
    if not annotation_file(split).is_file():
        return None
    try:
        return small_coco(split, 2, folder)
    except (ValueError, KeyError, TypeError):
        return None


def train_step(
    cfg: Config, model: nn.Module, config: ConfigDict, full: tuple[int, int] | None
) -> Iterator[Finding]:
    """Run a step; tell of the loss, of gradients, and of memory."""
    try:
        dataset = wrap(cfg, config)
        images = [dataset[i] for i in range(len(dataset))]
    except Exception as error:
        yield failed('train pipeline', error, 'correct train_pipeline or the data')
        return
    if not images:
        mend = 'see the findings on classes and data'
        yield Finding('FAIL', 'train data', 'no image is left to train on', mend)
        return
    saved = SavedBytes()
    try:
        with saved:
            trial = step(model, pseudo_collate((images * 2)[:2]))
    except Exception as error:
        yield failed('training step', error, 'make the model fit itself and the data')
        return
    bad = [name for name, value in trial.losses.items() if not math.isfinite(value)]
    if bad:
        mend = 'check lr, normalization and boxes'
        yield Finding('FAIL', 'loss', f'{", ".join(bad)} not finite', mend)
    else:
        yield Finding('ok', 'loss', f'{trial.losses["loss"]:.3g}, finite')
    if trial.without_gradient:
        names = trial.without_gradient
        if not cfg.get('find_unused_parameters'):
            found = f'{len(names)} parameters without, such as {names[0]}'
            mend = 'build them not, or find_unused_parameters=True on several GPUs'
            yield Finding('warn', 'gradients', found, mend)
    else:
        yield Finding('ok', 'gradients', 'in every parameter')
    yield memory(cfg, model, saved.total / 2, images, full)


def wrap(cfg: Config, config: ConfigDict) -> Any:
    """Build a small data set, in the wrapper that mixes images if there is one."""
    outer = cfg.train_dataloader.dataset
    if outer.get('type') in ('MultiImageMixDataset',):
        return DATASETS.build(ConfigDict(outer, dataset=config))
    return DATASETS.build(config)


class SavedBytes:
    """Counts what autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda x: x)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if (
            not isinstance(tensor, nn.Parameter)
            and storage.data_ptr() not in self._seen
        ):
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor

    def __enter__(self) -> 'SavedBytes':
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


def memory(
    cfg: Config,
    model: nn.Module,
    an_image: float,
    images: list[Any],
    full: tuple[int, int] | None,
) -> Finding:
    """Estimate the memory of a step of the config's own size."""
    pixels = images[0]['inputs'].shape[-1] * images[0]['inputs'].shape[-2]
    area = full[0] * full[1] if full else pixels
    batch = cfg.train_dataloader.get('batch_size', 1)
    # Weights, gradients and two averages of Adam; and what backward needs.
    weights = 16 * sum(parameter.numel() for parameter in model.parameters())
    total = weights + batch * an_image * area / pixels
    size = f'{batch} images of {full[0]} x {full[1]}' if full else f'{batch} images'
    found = f'about {total / GIGABYTE:.1f} GiB a step, {size}, float32'
    mend = 'half of it: a batch half as large, at half the learning rate'
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, CrossFormer) and not cfg.model.backbone.get('with_cp'):
        mend = 'half of it: model.backbone.with_cp=True'
    return Finding('note', 'memory', found, mend)


def evaluate(cfg: Config, model: nn.Module, folder: Path) -> Iterator[Finding]:
    """Predict on an image of validation, and let the metric judge it."""
    config = small_set(cfg, 'val', folder)
    if config is None or not cfg.get('val_evaluator'):
        return
    try:
        dataset = DATASETS.build(config)
        if not len(dataset):
            mend = 'see the findings on its data'
            yield Finding('FAIL', 'val data', 'no image is left', mend)
            return
        batch = pseudo_collate([dataset[0]])
        results = predict(model, batch)
        metrics = listed(cfg.val_evaluator)
        split = Split('val', config, None)
        for metric in metrics:
            if 'ann_file' in metric:
                metric['ann_file'] = str(annotation_file(split))
        judge = Evaluator([ConfigDict(metric) for metric in metrics])
        judge.dataset_meta = dataset.metainfo
        judge.process(data_samples=results, data_batch=batch)
        judge.evaluate(1)
    except Exception as error:
        yield failed('evaluation', error, 'correct test_pipeline and val_evaluator')
    else:
        yield Finding('ok', 'evaluation', 'of one image works')


def largest_image(loader: Any) -> tuple[int, int] | None:
    """Return the largest image that a pipeline makes, the crop if it crops."""
    crops, sizes = [], []
    for name in ('crop_size', 'size', 'scale', 'scales', 'img_scale'):
        for value in find_keys(loader, name):
            entries = value if isinstance(value, list) else [value]
            if entries and isinstance(entries[0], int):
                entries = [tuple(entries)]
            pairs = [e for e in entries if isinstance(e, (list, tuple)) and len(e) == 2]
            (crops if name == 'crop_size' else sizes).extend(map(tuple, pairs))
    found = [pair for pair in crops or sizes if all(type(n) is int for n in pair)]
    return max(found, key=math.prod, default=None)


def shrink(node: Any) -> None:
    """Make all images of a config small, wherever their size is given."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ('scale', 'crop_size', 'size', 'img_scale', 'scales'):
                node[key] = smaller(value)
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list)):
            shrink(child)


def smaller(value: Any) -> Any:
    """Return a size, or several, of the side of small images."""
    if isinstance(value, list) and value and isinstance(value[0], (list, tuple)):
        return [(SIDE, SIDE) for _ in value]
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if is_pair and all(type(n) is int for n in value):
        return type(value)((SIDE, SIDE))
    return value
