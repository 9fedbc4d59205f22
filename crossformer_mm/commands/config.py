"""The command ``crossformer-config``: list, find and copy the package's configs.

::

    crossformer-config                      # list them
    mim train mmdet "$(crossformer-config mask_rcnn_crossformer_s_fpn_1x_coco)"
    crossformer-config NAME --copy FOLDER   # a copy to edit, in one file
    crossformer-config swap CONFIG --backbone CrossFormer_S --out FILE

The examples for own data, ``own_*``, are copied unchanged, because all their settings
depend on their first lines.
"""

import argparse
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from mmengine.config import Config
from mmengine.logging import MMLogger

from ..models.archs import NAMES
from ..swap.rules import SwapError, swap
from . import fail

FOLDER = Path(__file__).parents[1] / '.mim' / 'configs'


def main() -> None:
    """List the configs, print the path of one, copy it, or swap a backbone."""
    if sys.argv[1:2] == ['swap']:
        write_swap(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        prog='crossformer-config',
        description='List the configs that come with crossformer_mm, with the published'
        ' results; with a NAME, print the path of that config.',
        epilog='"crossformer-config swap --help": replace the backbone of any config.',
    )
    parser.add_argument('name', metavar='NAME', nargs='?', help='name of a config')
    parser.add_argument(
        '--copy',
        metavar='FOLDER',
        type=Path,
        help='write it into FOLDER instead, with its bases merged in, to be edited',
    )
    args = parser.parse_args()
    if args.name is None:
        if args.copy:
            parser.error('--copy needs the NAME of a config')
        print_list()
    elif args.copy is None:
        print(find_config(args.name))
    else:
        print(copy_config(find_config(args.name), args.copy))


def config_names() -> list[str]:
    """List the names of the shipped configs."""
    return sorted(path.stem for path in FOLDER.glob('*.py'))


def find_config(name: str) -> Path:
    """Return the path of a config, given its name with or without ``.py``."""
    stem, names = name.removesuffix('.py'), config_names()
    if stem in names:
        return FOLDER / f'{stem}.py'
    advice = 'crossformer-config without a name lists all'
    matches = [name for name in names if stem in name][:5]
    if matches := matches or get_close_matches(stem, names, n=5, cutoff=0.3):
        advice = 'near are:\n  ' + '\n  '.join(matches)
    fail(f'there is no config {name!r}; {advice}')


def copy_config(path: Path, folder: Path) -> Path:
    """Write a config and its bases as one file, which must not exist yet."""
    target = folder / path.name
    if target.exists():
        fail(f'{target} exists already: choose another folder, or remove it')
    if path.stem.startswith('own_'):
        text = path.read_text()
    else:
        # Keep environment variables, such as COCO_ROOT, in the copy.
        config = Config.fromfile(path, use_environment_variables=False)
        # A variable of the bases; changing it in the copy would have no effect.
        config.pop('backbone', None)
        text = config.pretty_text
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Rename the complete file, so that no partial copy remains.
        with TemporaryDirectory(prefix='.', dir=folder) as draft:
            Path(draft, path.name).write_text(text)
            Path(draft, path.name).rename(target)
    except OSError as error:
        fail(f'{target} cannot be written: {error}')
    return target


def write_swap(arguments: list[str]) -> None:
    """Write a config that replaces the backbone of another one by a CrossFormer."""
    parser = argparse.ArgumentParser(
        prog='crossformer-config swap',
        description='Write a config that inherits CONFIG and has a CrossFormer as its '
        'backbone. One training step on synthetic images has to work.',
    )
    parser.add_argument(
        'config', metavar='CONFIG', help='a path, mmdet::FOLDER/NAME.py or mmseg::...'
    )
    parser.add_argument(
        '--backbone',
        required=True,
        choices=NAMES,
        metavar='NAME',
        help=', '.join(NAMES),
    )
    parser.add_argument('--out', required=True, type=Path, metavar='FILE')
    args = parser.parse_args(arguments)
    warnings.simplefilter('ignore')
    MMLogger.get_instance('swap', log_level='ERROR')
    try:
        result = swap(args.config, args.backbone, args.out)
    except SwapError as error:
        fail(f'{args.config}: {error}')
    print(args.out)
    if result.without_gradient:
        names = '\n  '.join(result.without_gradient)
        print(
            'These parameters got no gradient in a step on synthetic images. To train '
            'on several GPUs, set find_unused_parameters = True in the config:\n  '
            + names,
            file=sys.stderr,
        )


def print_list() -> None:
    """Print each config with the results that the authors published for it."""
    results = {
        model['Name']: ', '.join(
            f'{metric} {value}'
            for result in model.get('Results', ())
            for metric, value in result['Metrics'].items()
        )
        for metafile in FOLDER.glob('*.yml')
        for model in yaml.safe_load(metafile.read_text())['Models']
    }
    names = config_names()
    width = max(map(len, names))
    for name in names:
        print(f'{name:{width}}  {results.get(name) or "-"}')
    print('The results are those published by the authors, not measured here.')
