"""The data sets of a config, and small ones of a few of their images."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope

from ..engine.checks import (
    DATA_HELP,
    dataset_paths,
    file_clients,
    is_missing,
    type_name,
    without_wrappers,
)
from .finding import Finding

SPLITS = ('train', 'val', 'test')


class Split(NamedTuple):
    """A data set of a config: its split, its own config, and its class."""

    name: str
    config: dict[str, Any]
    kind: type | None


def data_sets(cfg: Config, *names: str) -> Iterator[Split]:
    """List the data sets of some splits, without their wrappers."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for name in names or SPLITS:
        loader = cfg.get(f'{name}_dataloader') or {}
        for dataset in without_wrappers(loader.get('dataset')):
            with DATASETS.switch_scope_and_registry(None) as registry:
                kind = registry.get(str(dataset.get('type')))
            yield Split(name, dataset, kind)


def is_coco(kind: type | None) -> bool:
    """Tell whether a data set reads an annotation file as COCO's."""
    return any(base.__name__ == 'CocoDataset' for base in getattr(kind, '__mro__', ()))


def has_label_maps(kind: type | None) -> bool:
    """Tell whether a data set is one of MMSegmentation's."""
    bases = getattr(kind, '__mro__', ())
    return any(base.__name__ == 'BaseSegDataset' for base in bases)


def classes_of(split: Split) -> tuple[str, ...]:
    """Return the names of the classes, none where the data set does not know them."""
    own = (split.config.get('metainfo') or {}).get('classes')
    classes = own if own else getattr(split.kind, 'METAINFO', {}).get('classes', ())
    return tuple(classes) if not isinstance(classes, str) else ()


def annotation_file(split: Split) -> Path:
    """Return the path of the annotation file."""
    return Path(split.config.get('data_root') or '', split.config.get('ann_file', ''))


def image_folder(split: Split) -> Path:
    """Return the folder of the images."""
    prefix = split.config.get('data_prefix') or {}
    name = prefix if isinstance(prefix, str) else prefix.get('img', '')
    return Path(split.config.get('data_root') or '', name)


def listed(entry: Any) -> list[Any]:
    """Return the configs of heads, metrics or the like, which may be one or several."""
    entry = entry or []
    return entry if isinstance(entry, list) else [entry]


@cache
def read_json(path: Path) -> Any:
    """Read an annotation file once; several checks want it."""
    return json.loads(path.read_text())


def sample(items: list[Any], count: int) -> list[Any]:
    """Take some items, spread evenly."""
    return items[:: max(len(items) // count, 1)][:count]


def small_coco(split: Split, count: int, folder: Path) -> ConfigDict:
    """Return a data set's config with a few of its images that have objects."""
    data = read_json(annotation_file(split))
    names = {c['id'] for c in data['categories'] if c['name'] in classes_of(split)}
    objects = [a for a in data['annotations'] if a['category_id'] in names]
    with_objects = {annotation['image_id'] for annotation in objects}
    chosen = [image for image in data['images'] if image['id'] in with_objects]
    chosen = sample(chosen, count)
    ids = {image['id'] for image in chosen}
    part = dict(data, images=chosen)
    part['annotations'] = [a for a in data['annotations'] if a['image_id'] in ids]
    path = folder / f'{split.name}.json'
    path.write_text(json.dumps(part))
    return ConfigDict(split.config, ann_file=str(path.resolve()), indices=None)


def check_files(cfg: Config) -> Iterator[Finding]:
    """Whether the files and folders that the data sets name are there."""
    seen = set()
    for split in data_sets(cfg):
        for path in dataset_paths(split.config):
            if path in seen:
                continue
            seen.add(path)
            if is_missing(path, file_clients(split.config)):
                mend = DATA_HELP.get(type_name(split.config), 'set data_root')
                yield Finding('FAIL', f'{split.name} data', f'no {path}', mend)
    yield Finding('ok', 'data', f'{len(seen)} files and folders named')
