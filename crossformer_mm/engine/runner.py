"""MMEngine's runner, with checks before a training and atomic checkpoints."""

import os
from functools import partial
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import is_distributed, master_only
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.runner.loops import BaseLoop
from torch import nn

from ..checkpoint import check_loaded
from ..ops import accelerate_cpu, is_faster_accelerated
from .checks import check_data, check_masks, drop_overwritten
from .resume import find_start_checkpoint, warn_if_finished


@RUNNERS.register_module(force=True)
class CheckedRunner(Runner):
    """MMEngine's runner, with checks before a training and atomic checkpoints.

    - Missing data is an error before anything else; the message says how to get it.
    - A checkpoint is written under a temporary name and renamed when it is complete.
      ``--resume`` continues from the newest intact one.
    - A checkpoint of another network is an error; ``strict=False`` in the config loads
      the matching weights.
    - Distributed training works without GPUs, with the gloo backend.

    A config uses it with ``runner_type='CheckedRunner'``.
    """

    _load_from: str | None
    _resume: bool

    def train(self) -> nn.Module:
        """Check data and weights, then train."""
        check_data(self._train_dataloader, self._val_dataloader)
        if self._resume:
            self._load_from, self._resume = find_start_checkpoint(self)
        drop_overwritten(self.model, self._load_from, self._resume)
        return super().train()

    def build_train_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build the loop and its data, then check that the objects have masks."""
        built = super().build_train_loop(loop)
        check_masks(built.dataloader.dataset)
        return built

    def val(self) -> dict[str, float]:
        """Check the data, then validate."""
        check_data(self._val_dataloader)
        return super().val()

    def test(self) -> dict[str, float]:
        """Check the data, then test."""
        check_data(self._test_dataloader)
        return super().test()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume; warn if the training is already finished."""
        super().resume(filename, *args, **kwargs)
        warn_if_finished(self)

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Load weights; they must fit this network completely."""
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        fine_tuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        check_loaded(
            self.model, checkpoint, filename, self.cfg.get('strict', True), fine_tuning
        )
        return checkpoint

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Write under a temporary name, then rename, to avoid partial files."""
        save = partial(super().save_checkpoint, out_dir)
        if '://' in out_dir or file_client_args or kwargs.get('backend_args'):
            save(filename, file_client_args, *args, **kwargs)
            return
        part = f'{filename}.part'
        save(part, None, *args, **kwargs)
        os.replace(os.path.join(out_dir, part), os.path.join(out_dir, filename))

    @property
    def _on_cpus(self) -> bool:
        """Whether there are several processes, but no GPUs."""
        return self.distributed and not torch.cuda.is_available()

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Start the process group with gloo; MMEngine's default needs GPUs."""
        if self._on_cpus and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(
        self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module
    ) -> nn.Module:
        """Wrap the model for several processes; MMEngine's default names a GPU."""
        self._accelerate(model)
        if self._on_cpus and model_wrapper_cfg is None:
            model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def _accelerate(self, model: nn.Module) -> None:
        """Replace the linear layers if oneDNN is faster on this CPU."""
        # A resumed training may measure a different result; its weights would then
        # differ in the last bits.
        deterministic = self._randomness_cfg.get('deterministic', False)
        if get_device() == 'cpu' and not deterministic and is_faster_accelerated():
            accelerate_cpu(model)
            self.logger.info('Linear layers run by oneDNN, faster on this CPU.')
