"""One clear line for a file that is missing."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.fileio import exists

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
    'ImageNet': (
        'Get ILSVRC 2012 from https://www.image-net.org/download.php into '
        'data/imagenet/train and data/imagenet/val, a folder for each class, or put '
        'IMAGENET_ROOT=/path/to/imagenet before the command.'
    ),
}
CHECKPOINT_HELP = (
    'Save it there as it is, or name another file with "--cfg-options '
    'model.backbone.init_cfg.checkpoint=PATH". To train from scratch, add '
    '"--cfg-options model.backbone.init_cfg=None".'
)


def check_data(*dataloaders: Any) -> None:
    """Check that the files and folders of data sets are there.

    Args:
        dataloaders (dict | DataLoader | None): Configs; a loader that is built already
            has found its data.

    Raises:
        SystemExit: If one is missing: its path, and how to get it.
    """
    for dataloader in dataloaders:
        if not isinstance(dataloader, dict):
            continue
        for dataset in without_wrappers(dataloader['dataset']):
            for path in dataset_paths(dataset):
                if not exists(path):
                    advice = DATA_HELP.get(dataset.get('type'), '')
                    raise SystemExit(f'Data not found: {path}\n{advice}')


def pretrained_paths(backbone: CrossFormer) -> list[str]:
    """List the checkpoints that a backbone's ``init_cfg`` names."""
    init_cfg = backbone.init_cfg or []
    entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    return [entry['checkpoint'] for entry in entries if 'checkpoint' in entry]


def check_pretrained(backbone: CrossFormer) -> None:
    """Check that the weights a backbone starts from are there.

    Raises:
        SystemExit: If they are missing: their path, and where they are published.
    """
    for path in pretrained_paths(backbone):
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
    if isinstance(prefixes, str):  # MMPretrain's may have one alone
        prefixes = {'img_path': prefixes}
    for name in (dataset.get('ann_file'), dataset.get('split'), *prefixes.values()):
        if name:
            yield osp.join(root, name)
