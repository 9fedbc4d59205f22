"""The data sets of a config, and small ones of a few of their images."""

import gc
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
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

T = TypeVar('T')
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
    """Return whether a data set reads an annotation file in COCO's format."""
    return has_base(kind, 'CocoDataset')


def has_label_maps(kind: type | None) -> bool:
    """Return whether a data set is one of MMSegmentation's."""
    return has_base(kind, 'BaseSegDataset')


def has_base(kind: type | None, name: str) -> bool:
    """Return whether a class has a base of a name; its library is not imported."""
    return any(base.__name__ == name for base in getattr(kind, '__mro__', ()))


def classes_of(split: Split) -> tuple[str, ...]:
    """Return the names of the classes, none where the data set does not know them."""
    classes = (split.config.get('metainfo') or {}).get('classes')
    if isinstance(classes, str):  # MMEngine reads a file of names
        return tuple(list_from_file(classes)) if Path(classes).is_file() else ()
    return tuple(classes or getattr(split.kind, 'METAINFO', {}).get('classes', ()))


def annotation_file(split: Split) -> Path:
    """Return the path of the annotation file."""
    return Path(split.config.get('data_root') or '', split.config.get('ann_file', ''))


def image_folder(split: Split) -> Path:
    """Return the folder of the images."""
    prefix = split.config.get('data_prefix') or {}
    name = prefix if isinstance(prefix, str) else prefix.get('img', '')
    return Path(split.config.get('data_root') or '', name)


def listed(entry: Any) -> list[Any]:
    """Return the configs of heads or metrics, of which there may be one or several."""
    entry = entry or []
    return entry if isinstance(entry, list) else [entry]


@cache
def read_json(path: Path) -> Any:
    """Read an annotation file once; several checks need it."""
    # No search for garbage among COCO's millions of objects: not while they are made,
    # nor at MMEngine's collections, 8 s each.
    gc.disable()
    try:
        return json.loads(path.read_text())
    finally:
        gc.freeze()
        gc.enable()


def sample(items: Sequence[T], count: int) -> Sequence[T]:
    """Take items at equal distances."""
    return items[:: max(len(items) // count, 1)][:count]


def small_coco(split: Split, count: int, folder: Path) -> ConfigDict:
    """Return a data set's config with a few of its images that have objects."""
    data = read_json(annotation_file(split))
    names = {c['id'] for c in data['categories'] if c['name'] in classes_of(split)}
    objects = [a for a in data['annotations'] if a['category_id'] in names]
    with_objects = {annotation['image_id'] for annotation in objects}
    images = [image for image in data['images'] if image['id'] in with_objects]
    chosen = sample(images, count)
    ids = {image['id'] for image in chosen}
    part = dict(data, images=chosen)
    part['annotations'] = [a for a in data['annotations'] if a['image_id'] in ids]
    path = folder / f'{split.name}.json'
    path.write_text(json.dumps(part))
    return ConfigDict(split.config, ann_file=str(path.resolve()), indices=None)


def check_files(cfg: Config) -> Iterator[Finding]:
    """Check that the files and folders that the data sets name exist."""
    seen: set[str] = set()
    for split in data_sets(cfg):
        for path in dataset_paths(split.config):
            if path in seen:
                continue
            seen.add(path)
            if is_missing(path, file_clients(split.config)):
                remedy = DATA_HELP.get(type_name(split.config), 'set data_root')
                yield Finding('FAIL', f'{split.name} data', f'no {path}', remedy)
    yield Finding('ok', 'data', f'{len(seen)} files and folders named')
