"""A runner that looks for its data and weights before it starts."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.fileio import exists
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

COCO_HELP = (
    'Get COCO 2017 from https://cocodataset.org/#download into data/coco/, or make a '
    'small set in the same layout, "python tools/make_mini_coco.py data/mini_coco", '
    'and put COCO_ROOT=data/mini_coco before the command.'
)
CHECKPOINT_HELP = (
    'README.md lists the published files. To train from scratch, add '
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
            if isinstance(dataloader, dict):
                for path in dataset_paths(dataloader['dataset']):
                    if not exists(path):
                        raise SystemExit(f'Data not found: {path}\n{COCO_HELP}')

    def _check_init_cfg(self) -> None:
        init_cfg = self.cfg.get('model', {}).get('backbone', {}).get('init_cfg') or []
        # Weights of a resumed training come from its own checkpoint.
        if self._resume:
            return
        for entry in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
            path = entry.get('checkpoint')
            if path and '://' not in path and not exists(osp.expanduser(path)):
                raise SystemExit(
                    f'Pretrained weights not found: {path} '
                    f'(model.backbone.init_cfg.checkpoint)\n{CHECKPOINT_HELP}'
                )


def dataset_paths(dataset: dict[str, Any]) -> Iterator[str]:
    """List the files and folders that a data set's config names.

    Wrappers (``dataset=`` or ``datasets=`` inside) are looked through.
    """
    for inner in (dataset.get('dataset'), *dataset.get('datasets', ())):
        if inner is not None:
            yield from dataset_paths(inner)
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or {}
    for name in (dataset.get('ann_file'), *prefixes.values()):
        if name:
            yield osp.join(root, name)
