"""The command ``crossformer-config``: find the configs that come with the package.

::

    crossformer-config                      # list them
    mim train mmdet "$(crossformer-config mask_rcnn_crossformer_s_fpn_1x_coco)"
    crossformer-config NAME --copy FOLDER   # a copy to edit, in one file

The examples for data of one's own, ``own_*``, are copied as they are written: all in
them follows from their first lines.
"""

import argparse
import sys
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import yaml
from mmengine.config import Config

FOLDER = Path(__file__).parent / '.mim' / 'configs'


def main() -> None:
    """List the configs, print the path of one, or copy it."""
    parser = argparse.ArgumentParser(
        prog='crossformer-config',
        description='List the configs that come with crossformer_mm, with the published'
        ' results; with a NAME, print the path of that config.',
    )
    parser.add_argument('name', metavar='NAME', nargs='?', help='name of a config')
    parser.add_argument(
        '--copy',
        metavar='FOLDER',
        type=Path,
        help='write it into FOLDER instead, its bases merged in, to be edited there',
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
    path = FOLDER / f'{name.removesuffix(".py")}.py'
    if path.is_file() and path.parent == FOLDER:
        return path
    near = get_close_matches(path.stem, config_names(), n=5, cutoff=0.5)
    advice = 'crossformer-config without a name lists all'
    if near:
        advice = 'near are:\n  ' + '\n  '.join(near)
    fail(f'there is no config {name!r}; {advice}')


def copy_config(path: Path, folder: Path) -> Path:
    """Write a config and its bases as one file, which must not be there yet."""
    target = folder / path.name
    if target.exists():
        fail(f'{target} is there already: choose another folder, or remove it')
    if path.stem.startswith('own_'):
        text = path.read_text()
    else:
        # What an environment variable sets, such as COCO_ROOT, it sets in the copy too.
        config = Config.fromfile(path, use_environment_variables=False)
        text = config.pretty_text
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The copy appears complete or not at all.
        with TemporaryDirectory(prefix='.', dir=folder) as workshop:
            Path(workshop, path.name).write_text(text)
            Path(workshop, path.name).rename(target)
    except OSError as error:
        fail(f'{target} cannot be written: {error}')
    return target


def print_list() -> None:
    """Print each config and what the authors have published for it."""
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


def fail(message: str) -> NoReturn:
    """End with one message on stderr."""
    sys.exit(f'crossformer-config: {message}')
