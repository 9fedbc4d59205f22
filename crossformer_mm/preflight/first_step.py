"""Run a training step, a prediction and its evaluation on small real images."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import nn

from ..models import CrossFormer
from ..swap.dry_run import (
    build_model,
    find_keys,
    first_line,
    iter_dicts,
    make_small,
    predict,
    step,
)
from .datasets import Split, data_sets, small_coco, to_list
from .finding import Finding
from .network import check_strides

SIDE = 192  # pixels, so that a step takes seconds
GIGABYTE = 1024**3
# Arguments of transforms that set the size of an image.
SIZES = ('crop_size', 'scale', 'scales', 'size', 'img_scale')


def check_step(cfg: Config) -> Iterator[Finding]:
    """Check that a training step, a prediction and its evaluation work."""
    small = Config(cfg.to_dict())
    full = largest_image(small.train_dataloader)
    shrink(small._cfg_dict)
    make_small(small, SIDE)
    try:
        model = build_model(small)
    except Exception as error:
        yield failure('model', error, 'correct its arguments')
        return
    if hasattr(model, 'backbone') and small.default_scope == 'mmdet':
        try:
            yield from check_strides(small, model)
        except Exception as error:
            yield failure('model', error, 'make neck and heads fit the backbone')
            return
    with TemporaryDirectory() as folder:
        train = small_dataset(small, 'train', Path(folder))
        if train is None:
            return  # reported by the checks of the data
        yield from check_training(small, model, train, full)
        yield from check_evaluation(small, model, Path(folder))


def failure(part: str, error: Exception, remedy: str) -> Finding:
    """Return the finding for an error."""
    return Finding('FAIL', part, first_line(error), remedy)


def small_dataset(cfg: Config, name: str, folder: Path) -> ConfigDict | None:
    """Return the config of a split with a few images, None if its files are missing."""
    split = next(data_sets(cfg, name), None)
    if split is None:
        return None
    if not split.is_coco:
        return ConfigDict(split.config, indices=2)
    if not split.annotation_file.is_file():
        return None
    try:
        return small_coco(split, 2, folder)
    except (ValueError, KeyError, TypeError):
        return None


def check_training(
    cfg: Config, model: BaseModel, config: ConfigDict, full: tuple[int, int] | None
) -> Iterator[Finding]:
    """Run a step; report the loss, the gradients, and the memory."""
    try:
        dataset = build_dataset(cfg, config)
        images = [dataset[i] for i in range(len(dataset))]
    except Exception as error:
        yield failure('train pipeline', error, 'correct train_pipeline or the data')
        return
    if not images:
        remedy = 'see the findings on classes and data'
        yield Finding('FAIL', 'train data', 'no image is left to train on', remedy)
        return
    saved: dict[int, int] = {}  # bytes by address

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter):
            saved.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            result = step(model, pseudo_collate((images * 2)[:2]))
    except Exception as error:
        yield failure(
            'training step', error, 'make its parts fit each other and the data'
        )
        return
    if result.not_finite:
        text = f'{", ".join(result.not_finite)} not finite'
        yield Finding('FAIL', 'loss', text, 'check lr, normalization and boxes')
    else:
        yield Finding('ok', 'loss', f'{result.losses["loss"]:.3g}, finite')
    names = result.without_gradient
    if not names:
        yield Finding('ok', 'gradients', 'in every parameter')
    elif not cfg.get('find_unused_parameters'):
        text = f'{len(names)} parameters without, such as {names[0]}'
        remedy = 'do not build them, or set find_unused_parameters=True on several GPUs'
        yield Finding('warn', 'gradients', text, remedy)
    yield estimate_memory(cfg, model, sum(saved.values()) / 2, images, full)


def build_dataset(cfg: Config, config: ConfigDict) -> Any:
    """Build a small data set, in the config's image-mixing wrapper if there is one."""
    outer = cfg.train_dataloader.dataset
    if outer.get('type') == 'MultiImageMixDataset':
        return DATASETS.build(ConfigDict(outer, dataset=config))
    return DATASETS.build(config)


def estimate_memory(
    cfg: Config,
    model: nn.Module,
    image_bytes: float,
    images: list[Any],
    full: tuple[int, int] | None,
) -> Finding:
    """Estimate the memory of a training step at the config's image size."""
    pixels = images[0]['inputs'].shape[-1] * images[0]['inputs'].shape[-2]
    area = full[0] * full[1] if full else pixels
    batch = cfg.train_dataloader.get('batch_size', 1)
    # Weights, gradients and two averages of Adam; tensors saved for backward.
    weights = 16 * sum(parameter.numel() for parameter in model.parameters())
    total = weights + batch * image_bytes * area / pixels
    size = f'{batch} images of {full[0]} x {full[1]}' if full else f'{batch} images'
    text = f'about {total / GIGABYTE:.1f} GiB a step, {size}, float32'
    remedy = 'half of it: a batch half as large, at half the learning rate'
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, CrossFormer) and not cfg.model.backbone.get('with_cp'):
        remedy = 'half of it: model.backbone.with_cp=True'
    return Finding('note', 'memory', text, remedy)


def check_evaluation(cfg: Config, model: BaseModel, folder: Path) -> Iterator[Finding]:
    """Predict a validation image, and evaluate the prediction."""
    config = small_dataset(cfg, 'val', folder)
    if config is None or not cfg.get('val_evaluator'):
        return
    try:
        dataset = DATASETS.build(config)
        if not len(dataset):
            remedy = 'see the findings on its data'
            yield Finding('FAIL', 'val data', 'no image is left', remedy)
            return
        batch = pseudo_collate([dataset[0]])
        results = predict(model, batch)
        metrics = to_list(cfg.val_evaluator)
        split = Split('val', config, None)
        for metric in metrics:
            if 'ann_file' in metric:
                metric['ann_file'] = str(split.annotation_file)
        evaluator = Evaluator([ConfigDict(metric) for metric in metrics])
        evaluator.dataset_meta = dataset.metainfo
        evaluator.process(data_samples=results, data_batch=batch)
        evaluator.evaluate(1)
    except Exception as error:
        yield failure('evaluation', error, 'correct test_pipeline and val_evaluator')
    else:
        yield Finding('ok', 'evaluation', 'of one image works')


def largest_image(loader: object) -> tuple[int, int] | None:
    """Return the largest image size of a pipeline, or its crop size."""
    for names in (('crop_size',), SIZES):
        values = [value for name in names for value in find_keys(loader, name)]
        sizes = [(size[0], size[1]) for value in values for size in sizes_in(value)]
        if sizes:
            return max(sizes, key=math.prod)
    return None


def shrink(config: object) -> None:
    """Replace all image sizes in a config by a small one."""
    for _, part in iter_dicts(config, ''):
        for name in SIZES:
            if is_size(part.get(name)):
                part[name] = (SIDE, SIDE)
            elif sizes := sizes_in(part.get(name)):
                part[name] = [(SIDE, SIDE) for _ in sizes]


def sizes_in(value: object) -> list[Sequence[int]]:
    """Return the sizes in a value: one, several, or none."""
    entries = value if isinstance(value, list) and not is_size(value) else [value]
    return [entry for entry in entries if is_size(entry)]


def is_size(value: object) -> TypeGuard[Sequence[int]]:
    """Return whether a value is a pair of integers."""
    if not isinstance(value, (list, tuple)):
        return False
    return [type(n) for n in value] == [int, int]
