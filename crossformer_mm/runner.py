"""MMEngine's runner, for trainings that fail early, clearly, and can go on."""

import os
from typing import Any

import torch
from mmengine.dist import is_distributed, master_only
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from .checkpoint.reader import CheckpointError, read_checkpoint
from .missing import check_data, check_pretrained, pretrained_paths
from .models import CrossFormer
from .resume import newest_whole_checkpoint


@RUNNERS.register_module(force=True)
class CheckedRunner(Runner):
    """MMEngine's runner, with the first and the last minute of a training in mind.

    - A missing file is named in one line, before anything starts.
    - A checkpoint is written under another name and renamed when it is whole, and
      ``--resume`` goes on from the newest whole one.
    - Several processes work without GPUs as well, by gloo.

    A config uses it with ``runner_type='CheckedRunner'``.
    """

    def train(self) -> nn.Module:
        """Check what the training starts from, then train."""
        check_data(self._train_dataloader, self._val_dataloader)
        self._find_checkpoint()
        self._check_backbones()
        return super().train()

    def val(self) -> dict[str, float]:
        """Check the data, then validate."""
        check_data(self._val_dataloader)
        return super().val()

    def test(self) -> dict[str, float]:
        """Check the data, then test."""
        check_data(self._test_dataloader)
        return super().test()

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """Write under another name first: MMEngine writes into the file itself."""
        if '://' in out_dir:
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        part = f'{filename}.part'
        super().save_checkpoint(out_dir, part, *args, **kwargs)
        os.replace(os.path.join(out_dir, part), os.path.join(out_dir, filename))

    @property
    def _on_cpus(self) -> bool:
        """Whether several processes work without GPUs."""
        return self.distributed and not torch.cuda.is_available()

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Start the group of processes; MMEngine's own start needs a GPU for each."""
        if self._on_cpus and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(
        self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module
    ) -> nn.Module:
        """Wrap the model for several processes; MMEngine's default names a GPU."""
        if self._on_cpus and model_wrapper_cfg is None:
            model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def _find_checkpoint(self) -> None:
        """Choose what ``--resume`` goes on from."""
        if not self._resume:
            return
        if self._load_from is None:
            newest = newest_whole_checkpoint(self.work_dir, self.logger)
            if newest is None:
                self.logger.info(
                    f'There is nothing to resume in {self.work_dir} yet: training '
                    'starts at its beginning.'
                )
            self._load_from, self._resume = newest, newest is not None
            return
        try:
            read_checkpoint(self._load_from)
        except CheckpointError as error:
            newest = newest_whole_checkpoint(self.work_dir, self.logger)
            instead = newest or f'another: there is none in {self.work_dir}'
            raise SystemExit(
                f'Cannot resume: {self._load_from} {error}\nResume {instead}.'
            ) from error

    def _check_backbones(self) -> None:
        # Weights of a resumed training come from its own checkpoint.
        if self._resume:
            return
        for backbone in self.model.modules():
            if not isinstance(backbone, CrossFormer):
                continue
            check_pretrained(backbone)
            if not pretrained_paths(backbone) and not self._load_from:
                self.logger.info(
                    f'{type(backbone).__name__} is trained from scratch: its init_cfg '
                    'names no checkpoint.'
                )
