"""The command ``crossformer-weights``: download the weights that the authors published.

::

    crossformer-weights                     # list them with their addresses
    crossformer-weights S                   # the classifier, for the configs
    crossformer-weights mask_rcnn_crossformer_s_fpn_1x_coco

It needs the extra ``weights``: ``pip install "crossformer-mm[weights]"``.
"""

import argparse
from difflib import get_close_matches
from pathlib import Path

from ..checkpoint.convert import sha256
from ..checkpoint.errors import CheckpointError
from ..checkpoint.reader import read_checkpoint
from ..checkpoint.recognize import (
    REPOSITORY,
    Published,
    backbone_file,
    full_name,
    published_files,
    recognize,
)
from . import fail

FILES = published_files()
NOT_PUBLISHED = (
    'Never published: detectors and segmentors on CrossFormer++ (an open box in the '
    "authors' README), those of the 3x schedules, and Cascade Mask R-CNN."
)


def main() -> None:
    """List the files, or download one."""
    parser = argparse.ArgumentParser(
        prog='crossformer-weights',
        description='List the weights that the authors of CrossFormer published; with '
        'a NAME, download them from Google Drive.',
    )
    parser.add_argument(
        'name', metavar='NAME', nargs='?', help='T, S, B, L, or the name of a config'
    )
    parser.add_argument(
        '--folder', type=Path, default=Path('pretrained'), help='default: pretrained'
    )
    args = parser.parse_args()
    if args.name is None:
        print_list()
        return
    name = args.name.removesuffix('.py').replace('++', 'pp')
    if name not in FILES:
        matches = get_close_matches(name, FILES, n=3, cutoff=0.5)
        advice = f'near are {", ".join(matches)}. ' if matches else ''
        fail(f'no weights named {args.name!r} were published; {advice}{NOT_PUBLISHED}')
    published = FILES[name]
    # Configs load classifiers by this name.
    file = backbone_file(name) if published.kind == 'classifier' else f'{name}.pth'
    fetch(published, args.folder / file)


def fetch(published: Published, path: Path) -> None:
    """Download a file from Google Drive and check it.

    It is renamed to ``path`` after the check. An interrupted download is kept beside it
    and continued the next time.
    """
    if not published.drive:
        fail(
            f'{full_name(published.variant)} is on BaiduCloud only: open '
            f'{published.address} in a browser, and put the file at {path}'
        )
    if path.exists():
        fail(f'{path} exists already: remove it, or choose another --folder')
    try:
        import gdown
    except ImportError:
        fail('needs gdown: pip install "crossformer-mm[weights]"')
    part = path.with_name(f'{path.name}.download')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        gdown.download(
            id=published.drive,
            output=str(part),
            resume=True,
            use_cookies=False,
            timeout=60,
        )
    except Exception as error:  # network errors have many types
        reason = ' '.join(str(error).split())
        advice = 'The same command continues the download'
        fail(f'{path} was not downloaded: {reason} {advice}')
    check(part, published)
    part.rename(path)
    print(f'{path}: {published.kind} of {full_name(published.variant)}')
    print(f'SHA-256 {sha256(path)}')


def check(part: Path, published: Published) -> None:
    """Remove a file and exit unless it is the published one."""
    try:
        found = recognize(read_checkpoint(str(part)))
        if (found.kind, found.variant) != (published.kind, published.variant):
            raise CheckpointError(
                f'holds a {found.kind} of {full_name(found.variant)}, not a '
                f'{published.kind} of {full_name(published.variant)}'
            )
    except CheckpointError as error:
        part.unlink()
        fail(f'Google Drive sent something else: it {error}')


def print_list() -> None:
    """Print each file with its size and address."""
    width = max(map(len, FILES))
    for name, file in FILES.items():
        size = f'{file.parameters:>5} M parameters'
        print(f'{name:{width}}  {file.kind:10}  {size}  {file.address}')
    print(NOT_PUBLISHED)
    print(f'The links are from {REPOSITORY}; those to BaiduCloud need a browser.')
