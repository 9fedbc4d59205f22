"""Load all weights into a network, or raise an error that lists the differences."""

import logging
import os.path as osp
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import exists
from mmengine.logging import print_log
from mmengine.model import (
    BaseModule,
    BaseTTAModel,
    PretrainedInit,
    is_model_wrapper,
    update_init_info,
)
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from .errors import CheckpointError, error_context
from .reader import MapLocation, download, read_checkpoint
from .recognize import full_name, reason_to_drop, recognize, stage_of, where_published
from .weights import Difference, as_float32, compare, precision, shapes_of

HELP = (
    'Save it there as it is, or name another file with "--cfg-options '
    'model.backbone.init_cfg.checkpoint=PATH". To train from scratch, add '
    '"--cfg-options model.backbone.init_cfg=None".'
)


# Weights of a backbone, loaded by init_cfg


@WEIGHT_INITIALIZERS.register_module(force=True)
class PretrainedBackbone(PretrainedInit):
    """Loads a backbone's weights from any published file, without conversion.

    Replaces MMEngine's ``Pretrained``, which continues, with or without a warning, if
    a file has only some of the weights or none.

    Args:
        checkpoint (str): A path, a URL, or an address of MMEngine's file clients.
        prefix (str, optional): Prefix of the weights' names, for a file with several
            backbones. Defaults to None.
        strict (bool): Whether names and shapes in the file must be exactly those of
            the backbone. Otherwise matching weights are loaded, and a warning lists
            the differences. Defaults to True.
        **kwargs: Further arguments of MMEngine's ``PretrainedInit``, ignored.
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
                f'Pretrained weights not found: {path} (init_cfg.checkpoint). '
                f'{where_published(module.arch)} {HELP}'
            )
        with error_context(path):
            network = recognize(read_checkpoint(path), self.prefix or '')
            given = network.backbone
            if len(module.layers) < len(module.num_features):
                # Stages after the last output are not built.
                given = {
                    name: tensor
                    for name, tensor in given.items()
                    if stage_of(name) < len(module.layers)
                }
            needed = shapes_of(module.state_dict())
            difference = compare(shapes_of(given), needed)
            variant = full_name(network.variant)
            weights = {
                name: tensor
                for name, tensor in given.items()
                if needed.get(name) == tuple(tensor.shape)
            }
            if not weights or (self.strict and difference):
                raise CheckpointError(
                    f'does not fit the backbone, {type(module).__name__}: it looks '
                    f'like {variant}; {difference}. Choose the file of this backbone '
                    'or the backbone of this file; strict=False in init_cfg loads '
                    'what fits and leaves the rest as it is.'
                )
            in_file, weights = precision(weights), as_float32(weights)
        module.load_state_dict(weights, strict=self.strict)
        loaded, level = f'{len(weights)} tensors, the whole backbone', logging.INFO
        if difference:
            loaded = f'{len(weights)} of {len(needed)} tensors of the backbone'
            loaded, level = f'{loaded}; {difference}', logging.WARNING
        print_log(f'Loaded {path}, {variant}: {loaded}{in_file}', 'current', level)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, self._get_init_info())


# Weights of a complete network, loaded by MMEngine


def check_loaded(
    model: nn.Module,
    checkpoint: dict[str, Any],
    source: str,
    strict: bool = True,
    fine_tuning: bool = False,
) -> None:
    """Check that a checkpoint that MMEngine has loaded fits the model completely.

    MMEngine loads matching weights and only logs the differences.

    Args:
        model (nn.Module): The network.
        checkpoint (dict): The checkpoint that was loaded into it.
        source (str): Name of the checkpoint's file.
        strict (bool): Whether names and shapes in the checkpoint must be exactly those
            of the model. Defaults to True.
        fine_tuning (bool): Whether shapes may differ, e.g. for another number of
            classes; such weights are not loaded. Defaults to False.

    Raises:
        CheckpointError: If the checkpoint does not fit.
    """
    network: Any = model
    while is_model_wrapper(network) or isinstance(network, BaseTTAModel):
        network = network.module
    difference, name = compare_loaded(network, checkpoint), type(network).__name__
    if not difference:
        print_log(f'Loaded {source}: the whole {name}', 'current')
        return
    if strict and (difference.missing or difference.unknown or not fine_tuning):
        raise CheckpointError(
            f'{source} does not fit the {name}: {difference}. Choose the checkpoint of '
            'this config or the config of this checkpoint; strict=False in the config '
            'loads what fits and leaves the rest as it is.'
        )
    not_loaded = [*difference.missing, *difference.mismatched]
    layers = dict.fromkeys(weight.rpartition('.')[0] for weight in not_loaded)
    print_log(
        f'Loaded what fits the {name} of {source}: {difference}. Left as they were: '
        + ', '.join(layers),
        'current',
        logging.WARNING,
    )


def compare_loaded(model: nn.Module, checkpoint: dict[str, Any]) -> Difference:
    """Compare a checkpoint with the model that it has been loaded into.

    It is loaded again with MMEngine's function, because modules may rename weights of
    older versions during loading.
    """
    state = checkpoint.get('state_dict', checkpoint)
    state = OrderedDict(
        (re.sub(r'^module\.', '', name), item) for name, item in state.items()
    )
    found: dict[str, list[str]] = {}
    handle = model.register_load_state_dict_post_hook(
        lambda _, keys: found.update(missing=[*keys[0]], unknown=[*keys[1]])
    )
    load_state_dict(model, state, logger='silent')
    handle.remove()
    tensors = {n: item for n, item in state.items() if isinstance(item, Tensor)}
    shapes = compare(shapes_of(tensors), shapes_of(model.state_dict()))
    return Difference(
        missing=[n for n in found['missing'] if not n.endswith('num_batches_tracked')],
        unknown=[n for n in found['unknown'] if not reason_to_drop(n)],
        mismatched=shapes.mismatched,
    )


def allow_mmengine_checkpoints() -> None:
    """Make MMEngine load checkpoints with this reader.

    By default it uses ``torch.load``. From torch 2.6 on, that refuses MMEngine's own
    checkpoints, because they contain the training log; older versions execute code in a
    file. Allowing the log's classes in ``torch.load`` would weaken it for every file
    that the process reads.
    """
    for prefixes, loader in (
        (('',), load_from_file),
        (('http://', 'https://'), load_from_http),
        ((r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), load_from_file),
    ):
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


def trusted_by_the_user() -> dict[str, Any]:
    """Return the user's safe globals of ``torch.load`` by full name."""
    get_safe_globals = getattr(torch.serialization, 'get_safe_globals', list)
    trusted = {}
    for item in get_safe_globals():
        item, path = item if isinstance(item, tuple) else (item, None)
        trusted[path or f'{item.__module__}.{item.__qualname__}'] = item
    return trusted


def load_from_file(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint from a file; replaces MMEngine's loaders.

    Raises:
        CheckpointError: If it cannot be read.
    """
    with error_context(filename):
        return read_checkpoint(filename, map_location, trusted_by_the_user())


def load_from_http(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint from a URL and keep the file; replaces MMEngine's loader.

    Raises:
        CheckpointError: If it cannot be downloaded or read.
    """
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    path = folder / (Path(urlparse(filename).path).name or 'checkpoint')
    if get_rank() > 0:
        barrier()  # the first process downloads
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with error_context(filename):
            download(filename, path)
    if get_rank() == 0:
        barrier()
    try:
        return read_checkpoint(str(path), map_location, trusted_by_the_user())
    except CheckpointError as error:
        raise CheckpointError(
            f'{filename} was kept in {path}, which {error} To download it again: '
            f'rm {path}'
        ) from error
