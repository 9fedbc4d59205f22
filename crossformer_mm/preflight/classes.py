"""Check that data, heads and metrics agree on classes and ignored labels."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..engine.checks import is_missing, type_name
from ..swap.dry_run import iter_dicts
from .datasets import data_sets, to_list
from .finding import Finding

# Heads with another number of classes than the data: proposals, or 'things' only.
OTHER_CLASSES = (
    'RPNHead',
    'FusedSemanticHead',
    'CascadeRPNHead',
    'GARPNHead',
    'EmbeddingRPNHead',
    'StageCascadeRPNHead',
)
OTHER_PARTS = ('.rpn_head', '.backbone', '.train_cfg', '.test_cfg')
IGNORE = 255


def check_classes(cfg: Config) -> Iterator[Finding]:
    """Check that data sets and heads have the same classes."""
    known: dict[str, tuple[str, ...]] = {}
    for split in data_sets(cfg):
        part = f'{split.name} classes'
        given = (split.config.get('metainfo') or {}).get('classes')
        if isinstance(given, str) and is_missing(given):
            text = f'metainfo.classes is the text {given!r}, each letter a class'
            remedy = f'a single class is written with a comma: classes = ({given!r},)'
            yield Finding('FAIL', part, text, remedy)
        elif classes := split.classes:
            known[split.name] = classes
            duplicates = sorted({name for name in classes if classes.count(name) > 1})
            if duplicates:
                text = f'named twice: {", ".join(duplicates)}'
                yield Finding('FAIL', part, text, 'name each once')
    if not known:
        return
    train, *others = known
    for name in others:
        if known[name] != known[train]:
            difference = sorted(set(known[name]) ^ set(known[train])) or 'their order'
            text = f'differ from those of {train}: {difference}'
            remedy = 'give the same metainfo to every data set'
            yield Finding('FAIL', f'{name} classes', text, remedy)
    yield from check_heads(cfg.model, len(known[train]))


def check_heads(model: dict[str, Any], count: int) -> Iterator[Finding]:
    """Check that heads and losses have the number of classes of the data."""
    wrong = [(path, n) for path, n in class_counts(model) if n != count]
    for path, value in wrong:
        text = f'{path} is {value}, the data has {count} classes'
        yield Finding('FAIL', 'num_classes', text, f'set it to {count}')
    if not wrong:
        yield Finding('ok', 'num_classes', f'{count} in data and heads')
    for path, part in iter_dicts(model, 'model'):
        weights = part.get('class_weight')
        if isinstance(weights, (list, tuple)) and len(weights) - count not in (0, 1):
            text = f'{path}.class_weight has {len(weights)} weights, {count} classes'
            remedy = 'one weight per class, and one for the background'
            yield Finding('FAIL', 'class_weight', text, remedy)


def class_counts(model: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """List the numbers of classes in a model's heads with their paths."""
    if 'panoptic' in type_name(model).lower():
        return  # boxes have things only, maps have both
    for path, part in iter_dicts(model, 'model'):
        if type_name(part) in OTHER_CLASSES or any(n in path for n in OTHER_PARTS):
            continue
        if 'num_things_classes' in part:
            stuff = part.get('num_stuff_classes', 0)
            name = f'{path}.num_things_classes' + ' + num_stuff_classes' * bool(stuff)
            yield name, part['num_things_classes'] + stuff
        elif type(part.get('num_classes')) is int:
            yield f'{path}.num_classes', part['num_classes']


def check_ignored(cfg: Config) -> Iterator[Finding]:
    """Check that data, heads, padding and metric ignore the same label."""
    splits = [split for split in data_sets(cfg) if split.has_label_maps]
    if not splits:
        return
    places = [(f'{split.name} data', split.config) for split in splits]
    for key in ('decode_head', 'auxiliary_head'):
        places += [(f'model.{key}', head) for head in to_list(cfg.model.get(key))]
    for key in ('val_evaluator', 'test_evaluator'):
        metrics = to_list(cfg.get(key))
        places += [(key, m) for m in metrics if type_name(m) == 'IoUMetric']
    values = {name: part.get('ignore_index', IGNORE) for name, part in places}
    padding = (cfg.model.get('data_preprocessor') or {}).get('seg_pad_val')
    if padding is not None:
        values['data_preprocessor.seg_pad_val'] = padding
    (data, first), *others = values.items()
    wrong = [(name, value) for name, value in others if value != first]
    for name, value in wrong:
        text = f'{value} in {name}, {first} in {data}'
        yield Finding('FAIL', 'ignore_index', text, 'the same everywhere')
    if not wrong:
        yield Finding('ok', 'ignore_index', f'{first} in {len(values)} places')
