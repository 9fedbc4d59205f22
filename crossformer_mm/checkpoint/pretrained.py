"""Pretrained weights for a backbone: all of them, or an error."""

import logging
import os.path as osp
from typing import Any

from mmengine.fileio import exists
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS

from .fit import as_float32, compare, precision
from .published import where_published
from .reader import CheckpointError, naming, read_checkpoint
from .recognize import first_stages, full_name, recognize, shapes_of

HELP = (
    'Save it there as it is, or name another file with "--cfg-options '
    'model.backbone.init_cfg.checkpoint=PATH". To train from scratch, add '
    '"--cfg-options model.backbone.init_cfg=None".'
)


@WEIGHT_INITIALIZERS.register_module(force=True)
class PretrainedBackbone(PretrainedInit):
    """Loads a backbone's weights from any published kind of file, unconverted.

    Takes the place of MMEngine's ``Pretrained``, which goes on with a warning, or
    with none, where a file gives it few weights or nothing.

    Args:
        checkpoint (str): A path, a URL, or what else MMEngine's file clients know.
        prefix (str, optional): What the names of the weights start with, in a file
            with several backbones. Defaults to None.
        strict (bool): Whether the file must hold each parameter of the backbone, in
            its shape, and no other. Otherwise what fits is loaded, and a warning
            tells how much that was. Defaults to True.
        **kwargs: Further arguments of MMEngine's ``PretrainedInit``; none of them
            makes a difference here.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        strict: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(checkpoint, prefix, **kwargs)
        self.strict = strict

    def __call__(self, module: BaseModule) -> None:
        """Load the weights into a :class:`CrossFormer`.

        Raises:
            CheckpointError: If the file cannot be used; the backbone is unchanged.
        """
        path = osp.expanduser(self.checkpoint)
        if '://' not in path and not exists(path):
            raise CheckpointError(
                f'Pretrained weights not found: {path} (init_cfg.checkpoint)\n'
                f'{where_published(module.arch)} {HELP}'
            )
        with naming(path):
            network = recognize(read_checkpoint(path), self.prefix or '')
            given, built = network.backbone, len(module.layers)
            if built < len(module.num_features):  # stages after the last output
                given = first_stages(given, built)
            needed = shapes_of(module.state_dict())
            fit = compare(given, needed)
            looks_like = full_name(network.variant)
            weights = {
                name: tensor
                for name, tensor in given.items()
                if needed.get(name) == tuple(tensor.shape)
            }
            if not weights or (self.strict and not fit):
                raise CheckpointError(
                    f'does not fit the backbone, {type(module).__name__}: it looks '
                    f'like {looks_like}; {fit}. Choose the file of this backbone or '
                    'the backbone of this file; strict=False in init_cfg loads what '
                    'fits and leaves the rest as it is.'
                )
            in_file, weights = precision(weights), as_float32(weights)
        module.load_state_dict(weights, strict=self.strict)
        if fit:
            told, level = f'{len(weights)} tensors, the whole backbone', logging.INFO
        else:
            told = f'{len(weights)} of {len(needed)} tensors of the backbone; {fit}'
            level = logging.WARNING
        told = f'Loaded {path}, {looks_like}: {told}{in_file}'
        print_log(told, 'current', level)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, self._get_init_info())
