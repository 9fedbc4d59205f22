"""The data sets of a config, and small subsets of them."""

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

    @property
    def is_coco(self) -> bool:
        """Whether it reads an annotation file in COCO's format."""
        return has_base(self.kind, 'CocoDataset')

    @property
    def has_label_maps(self) -> bool:
        """Whether it is a data set of MMSegmentation."""
        return has_base(self.kind, 'BaseSegDataset')

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if they are unknown."""
        classes = (self.config.get('metainfo') or {}).get('classes')
        if isinstance(classes, str):  # MMEngine reads a file of names
            return tuple(list_from_file(classes)) if Path(classes).is_file() else ()
        return tuple(classes or getattr(self.kind, 'METAINFO', {}).get('classes', ()))

    @property
    def annotation_file(self) -> Path:
        """Path of the annotation file."""
        return Path(self.config.get('data_root') or '', self.config.get('ann_file', ''))

    @property
    def image_folder(self) -> Path:
        """Folder of the images."""
        prefix = self.config.get('data_prefix') or {}
        name = prefix if isinstance(prefix, str) else prefix.get('img', '')
        return Path(self.config.get('data_root') or '', name)

    def finding(self, verdict: str, text: str, remedy: str = '') -> Finding:
        """Return a finding on its data."""
        return Finding(verdict, f'{self.name} data', text, remedy)


def data_sets(cfg: Config, *names: str) -> Iterator[Split]:
    """List the data sets of the named splits, without their wrappers."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for name in names or SPLITS:
        loader = cfg.get(f'{name}_dataloader') or {}
        for dataset in without_wrappers(loader.get('dataset')):
            with DATASETS.switch_scope_and_registry(None) as registry:
                kind = registry.get(str(dataset.get('type')))
            yield Split(name, dataset, kind)


def has_base(kind: type | None, name: str) -> bool:
    """Return whether a class has a base called ``name``, without importing it."""
    return any(base.__name__ == name for base in getattr(kind, '__mro__', ()))


def to_list(entry: Any) -> list[Any]:
    """Return a list of configs, such as of heads or metrics, given one or several."""
    entry = entry or []
    return entry if isinstance(entry, list) else [entry]


@cache
def read_json(path: Path) -> Any:
    """Read an annotation file once; several checks need it."""
    # Garbage collection over COCO's millions of objects takes 8 s: disable it while
    # they are created, and exclude them from later collections.
    gc.disable()
    try:
        return json.loads(path.read_text())
    finally:
        gc.freeze()
        gc.enable()


def sample(items: Sequence[T], count: int) -> Sequence[T]:
    """Return ``count`` items at equal distances."""
    return items[:: max(len(items) // count, 1)][:count]


def images_with_objects(data: Any, classes: tuple[str, ...]) -> set[int]:
    """Return the ids of the images with objects of some classes."""
    wanted = {c['id'] for c in data['categories'] if c['name'] in classes}
    return {a['image_id'] for a in data['annotations'] if a['category_id'] in wanted}


def small_coco(split: Split, count: int, folder: Path) -> ConfigDict:
    """Return a data set's config, limited to a few images with objects."""
    data = read_json(split.annotation_file)
    used = images_with_objects(data, split.classes)
    chosen = sample([image for image in data['images'] if image['id'] in used], count)
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
                yield split.finding('FAIL', f'no {path}', remedy)
    yield Finding('ok', 'data', f'{len(seen)} files and folders named')
