"""A runner that looks for its data and weights before it starts."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.fileio import exists
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from .checkpoint.published import where_published
from .models import CrossFormer

# How to get the data, by the type of the data set.
DATA_HELP = {
    'CocoDataset': (
        'Get COCO 2017 from https://cocodataset.org/#download into data/coco/, or make '
        'a small set in the same layout, "python tools/make_mini_coco.py '
        'data/mini_coco", and put COCO_ROOT=data/mini_coco before the command.'
    ),
    'ADE20KDataset': (
        'Get http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip '
        'and unpack it in data/ade/, or make a small set in the same layout, "python '
        'tools/make_mini_ade20k.py data/mini_ade20k", and put '
        'ADE20K_ROOT=data/mini_ade20k before the command.'
    ),
}
CHECKPOINT_HELP = (
    'Save it there as it is, or name another file with "--cfg-options '
    'model.backbone.init_cfg.checkpoint=PATH". To train from scratch, add '
    '"--cfg-options model.backbone.init_cfg=None".'
)


@RUNNERS.register_module(force=True)
class CheckedRunner(Runner):
    """MMEngine's runner, which first says in one line which file is missing.

    Without it, a missing file shows as a stack trace out of the data set's depths.
    A config uses it with ``runner_type='CheckedRunner'``.
    """

    def train(self) -> nn.Module:
        """Check the data and the pretrained weights, then train."""
        self._check_data(self._train_dataloader, self._val_dataloader)
        self._check_init_cfg()
        return super().train()

    def val(self) -> dict[str, float]:
        """Check the data, then validate."""
        self._check_data(self._val_dataloader)
        return super().val()

    def test(self) -> dict[str, float]:
        """Check the data, then test."""
        self._check_data(self._test_dataloader)
        return super().test()

    def _check_data(self, *dataloaders: Any) -> None:
        for dataloader in dataloaders:
            # A loader that is built already has found its data.
            if not isinstance(dataloader, dict):
                continue
            for dataset in without_wrappers(dataloader['dataset']):
                for path in dataset_paths(dataset):
                    if not exists(path):
                        advice = DATA_HELP.get(dataset.get('type'), '')
                        raise SystemExit(f'Data not found: {path}\n{advice}')

    def _check_init_cfg(self) -> None:
        # Weights of a resumed training come from its own checkpoint.
        if self._resume:
            return
        for backbone in self.model.modules():
            if isinstance(backbone, CrossFormer):
                self._check_backbone(backbone)

    def _check_backbone(self, backbone: CrossFormer) -> None:
        init_cfg = backbone.init_cfg or []
        entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
        paths = [entry['checkpoint'] for entry in entries if 'checkpoint' in entry]
        if not paths and not self._load_from:
            self.logger.info(
                f'{type(backbone).__name__} is trained from scratch: its init_cfg '
                'names no checkpoint.'
            )
        for path in paths:
            if '://' not in path and not exists(osp.expanduser(path)):
                raise SystemExit(
                    f'Pretrained weights not found: {path} '
                    f'(model.backbone.init_cfg.checkpoint)\n'
                    f'{where_published(backbone.arch)} {CHECKPOINT_HELP}'
                )


def without_wrappers(dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """List the data sets inside wrappers (``dataset=`` or ``datasets=``)."""
    inner = [dataset.get('dataset'), *dataset.get('datasets', ())]
    wrapped = [entry for entry in inner if entry is not None]
    if not wrapped:
        yield dataset
    for entry in wrapped:
        yield from without_wrappers(entry)


def dataset_paths(dataset: dict[str, Any]) -> Iterator[str]:
    """List the files and folders that a data set's config names."""
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or {}
    for name in (dataset.get('ann_file'), *prefixes.values()):
        if name:
            yield osp.join(root, name)
