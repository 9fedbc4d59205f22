"""Classes and values to ignore: the same in data, heads and metrics."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..engine.checks import type_name
from .datasets import classes_of, data_sets, has_label_maps, listed
from .finding import Finding

# Heads whose number of classes is not the data's: of proposals, or of 'things' alone.
OTHER_CLASSES = ('RPNHead', 'FusedSemanticHead', 'CascadeRPNHead', 'GARPNHead')
OTHER_CLASSES += ('EmbeddingRPNHead', 'StageCascadeRPNHead')
IGNORE = 255


def check_classes(cfg: Config) -> Iterator[Finding]:
    """Whether data sets and heads have the same classes."""
    known: dict[str, tuple[str, ...]] = {}
    for split in data_sets(cfg):
        own = (split.config.get('metainfo') or {}).get('classes')
        if isinstance(own, str):
            mend = f'a single class is written with a comma: classes = ({own!r},)'
            found = f'metainfo.classes is the text {own!r}, each letter a class'
            yield Finding('FAIL', f'{split.name} classes', found, mend)
        elif classes := classes_of(split):
            known[split.name] = classes
            twice = sorted({name for name in classes if classes.count(name) > 1})
            if twice:
                found = f'named twice: {", ".join(twice)}'
                yield Finding('FAIL', f'{split.name} classes', found, 'name each once')
    if not known:
        return
    train, *others = known
    for name in others:
        if known[name] != known[train]:
            differ = sorted(set(known[name]) ^ set(known[train])) or 'their order'
            found = f'differ from those of {train}: {differ}'
            mend = 'give the same metainfo to every data set'
            yield Finding('FAIL', f'{name} classes', found, mend)
    count, wrong = len(known[train]), False
    for path, value in counts_of_classes(cfg.model):
        if value != count:
            wrong = True
            found = f'{path} is {value}, the data has {count} classes'
            yield Finding('FAIL', 'num_classes', found, f'set it to {count}')
    for path, weights in lists_of_weights(cfg.model):
        if len(weights) not in (count, count + 1):
            found = f'{path} has {len(weights)} weights for {count} classes'
            yield Finding('FAIL', 'class_weight', found, 'one a class, and background')
    if not wrong:
        yield Finding('ok', 'num_classes', f'{count} in data and heads')


def counts_of_classes(node: Any, path: str = 'model') -> Iterator[tuple[str, int]]:
    """List the numbers of classes in a model's heads, and where they stand."""
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from counts_of_classes(value, f'{path}[{i}]')
    elif isinstance(node, dict):
        if type_name(node) in OTHER_CLASSES or path.endswith(
            ('.rpn_head', '.backbone')
        ):
            return
        if 'num_things_classes' in node:
            stuff = node.get('num_stuff_classes', 0)
            where = f'{path}.num_things_classes' + ' + num_stuff_classes' * bool(stuff)
            yield where, node['num_things_classes'] + stuff
            return
        if 'panoptic' in str(node.get('type', '')).lower() and path == 'model':
            return  # its boxes are of things alone, its maps of both
        for key, value in node.items():
            if key == 'num_classes' and type(value) is int:
                yield f'{path}.{key}', value
            elif key not in ('train_cfg', 'test_cfg'):
                yield from counts_of_classes(value, f'{path}.{key}')


def lists_of_weights(node: Any, path: str = 'model') -> Iterator[tuple[str, list]]:
    """List the weights of classes in a model's losses, and where they stand."""
    if isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from lists_of_weights(value, f'{path}[{i}]')
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == 'class_weight' and isinstance(value, (list, tuple)):
                yield f'{path}.{key}', list(value)
            else:
                yield from lists_of_weights(value, f'{path}.{key}')


def check_ignored(cfg: Config) -> Iterator[Finding]:
    """Whether data, heads, padding and metric ignore the same value of a label map."""
    splits = [split for split in data_sets(cfg) if has_label_maps(split.kind)]
    if not splits:
        return
    first = splits[0].config.get('ignore_index', IGNORE)
    values = {f'{s.name} data': s.config.get('ignore_index', IGNORE) for s in splits}
    for key in ('decode_head', 'auxiliary_head'):
        for head in listed(cfg.model.get(key)):
            values[f'model.{key}'] = head.get('ignore_index', IGNORE)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if 'seg_pad_val' in preprocessor:
        values['data_preprocessor.seg_pad_val'] = preprocessor.seg_pad_val
    for name in ('val_evaluator', 'test_evaluator'):
        for metric in listed(cfg.get(name)):
            if type_name(metric) == 'IoUMetric':
                values[name] = metric.get('ignore_index', IGNORE)
    wrong = {name: value for name, value in values.items() if value != first}
    for name, value in wrong.items():
        found = f'{value} in {name}, {first} in {splits[0].name} data'
        yield Finding('FAIL', 'ignore_index', found, 'the same everywhere')
    if not wrong:
        yield Finding('ok', 'ignore_index', f'{first} in {len(values)} places')
