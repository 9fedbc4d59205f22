"""Checks of data and weights before a training."""

import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.utils import is_abs
from torch import nn

from ..models import CrossFormer
from ..models.init_cfg import split_init_cfg

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
    'ImageNet': (
        'Get ILSVRC 2012 from https://www.image-net.org/download.php into '
        'data/imagenet/train and data/imagenet/val, a folder for each class, or put '
        'IMAGENET_ROOT=/path/to/imagenet before the command.'
    ),
}
OWN_ROOT = 'If the config sets a data_root of its own, correct that.'


def check_data(*dataloaders: object) -> None:
    """Check the data sets of a config before they are built.

    Args:
        dataloaders (dict | DataLoader | None): Configs; a data loader that is already
            built is not checked.

    Raises:
        FileNotFoundError: If a file or folder of a data set type in `DATA_HELP` is
            missing; the message says how to get it.
        ValueError: If the classes are a string instead of a sequence of names.
    """
    for dataloader in dataloaders:
        outer = dataloader['dataset'] if isinstance(dataloader, dict) else None
        for dataset in without_wrappers(outer):
            classes = (dataset.get('metainfo') or {}).get('classes')
            # If this is the path of a file, MMEngine reads the names from it.
            if isinstance(classes, str) and is_missing(classes):
                raise ValueError(
                    f'metainfo.classes is the text {classes!r}, of which each letter '
                    f'would be a class. A single class is written with a comma: '
                    f'classes=({classes!r},)'
                )
            # Other types may use these keys for something else.
            advice = DATA_HELP.get(type_name(dataset), '')
            for path in dataset_paths(dataset) if advice else ():
                if is_missing(path, file_clients(dataset)):
                    raise FileNotFoundError(
                        f'Data not found: {path}\n{advice} {OWN_ROOT}'
                    )


def without_wrappers(dataset: object) -> Iterator[dict[str, Any]]:
    """Yield the data sets inside wrappers (``dataset=`` or ``datasets=``)."""
    if not isinstance(dataset, dict):
        return  # built already
    inner = [dataset.get('dataset'), *dataset.get('datasets', ())]
    if all(entry is None for entry in inner):
        yield dataset
    for entry in inner:
        yield from without_wrappers(entry)


def type_name(config: dict[str, Any]) -> str:
    """Return the name of a config's class, written 'A', 'scope.A', 'x.y.A' or A."""
    kind = config.get('type', '')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def dataset_paths(dataset: dict[str, Any]) -> Iterator[str]:
    """Yield the files and folders named in a data set's config."""
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):  # MMPretrain allows a single one
        prefixes = {'img_path': prefixes}
    names = [dataset.get('ann_file'), dataset.get('split')]
    readers = [type_name(reader) for reader in dataset.get('pipeline', ())]
    if 'LoadImageFromFile' in readers:  # others may read an archive
        names += prefixes.values()
    for name in names:
        if name:
            yield name if is_abs(name) else osp.join(root, name)


def file_clients(dataset: dict[str, Any]) -> list[dict[str, Any] | None]:
    """List the file clients of a data set and its pipeline."""
    readers = [dataset, *dataset.get('pipeline', ())]
    keys = ('backend_args', 'file_client_args')
    return [None, *(r[key] for r in readers for key in keys if r.get(key))]


def is_missing(path: str, clients: Sequence[dict[str, Any] | None] = (None,)) -> bool:
    """Return whether all file clients report a path as missing."""
    for client in clients:
        try:
            backend = get_file_backend(path, backend_args=client)
            if backend.exists(path) or backend.isdir(path):
                return False
        except Exception:  # unknown client, or no network
            return False
    return True


def check_masks(dataset: Any) -> None:
    """Check that objects have the masks that a pipeline reads.

    Args:
        dataset (Dataset): A built data set, with or without wrappers.

    Raises:
        ValueError: If an object of MMDetection's data has no mask; the message names
            its image.
    """
    for inner in getattr(dataset, 'datasets', [getattr(dataset, 'dataset', None)]):
        if inner is not None:
            check_masks(inner)
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    if not any(getattr(transform, 'with_mask', False) for transform in transforms):
        return
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if any('mask' not in entry for entry in info.get('instances', ())):
            raise ValueError(
                f'An object of {info["img_path"]} has a box and no mask '
                '("segmentation"), and the network learns masks. Take one without '
                'them, such as RetinaNet, or masks = False in a copy of '
                'own_coco_example.'
            )


def drop_overwritten(model: nn.Module, load_from: str | None, resume: bool) -> None:
    """Drop pretrained files from ``init_cfg`` whose weights are overwritten later.

    Args:
        model (nn.Module): The network, before its weights are initialized.
        load_from (str, optional): Checkpoint that is loaded after initialization.
        resume (bool): Whether it is a checkpoint of this training.
    """
    # Files that overwrite weights, by the prefix of the modules' names.
    later = {'': load_from} if load_from else {}
    for name, module in model.named_modules():
        pretrained, others = split_init_cfg(getattr(module, 'init_cfg', None))
        files = [entry['checkpoint'] for entry in pretrained]
        if resume:
            if files:
                module.init_cfg = others
        elif isinstance(module, CrossFormer):
            sources = [later[start] for start in later if name.startswith(start)]
            _check_backbone(module, files, *sources[:1])
        elif files:
            later.setdefault(f'{name}.' if name else '', files[-1])
            # MMEngine initializes submodules before an entry only if it has this name.
            named = [dict(entry, type='Pretrained') for entry in pretrained]
            module.init_cfg = others + named


def _check_backbone(
    backbone: CrossFormer, files: list[str], source: str | None = None
) -> None:
    missing = [file for file in files if is_missing(osp.expanduser(file))]
    if source and missing:
        print_log(f'{missing[0]} is missing and not needed beside {source}.', 'current')
        backbone.init_cfg = [dict(type='Pretrained', checkpoint=source)]
    elif not source and not files:
        print_log(
            f'{type(backbone).__name__} is trained from scratch: its init_cfg names '
            'no checkpoint.',
            'current',
        )
