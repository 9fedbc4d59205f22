"""The command ``crossformer-weights``: download the weights that the authors published.

::

    crossformer-weights                     # list them, and where they are
    crossformer-weights S                   # the classifier, where the configs look
    crossformer-weights mask_rcnn_crossformer_s_fpn_1x_coco

It needs the extra of this name: ``pip install "crossformer-mm[weights]"``.
"""

import argparse
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..checkpoint.convert import sha256
from ..checkpoint.errors import CheckpointError
from ..checkpoint.reader import read_checkpoint
from ..checkpoint.recognize import (
    DRIVE_IDS,
    REPOSITORY,
    backbone_file,
    full_name,
    recognize,
)


class Published(NamedTuple):
    """A file that the authors published.

    Args:
        kind (str): Its model: 'classifier', 'detector' or 'segmentor'.
        variant (str): Key of ``archs.ARCHS``.
        parameters (float): Number of parameters in millions, as published.
        drive (str, optional): Id on Google Drive; None if it is not there.
        baidu (str): Name of the share on BaiduCloud.
        key (str): The key that the authors publish for it.
    """

    kind: str
    variant: str
    parameters: float
    drive: str | None
    baidu: str
    key: str


def _classifier(variant: str, parameters: float, baidu: str, key: str) -> Published:
    return Published(
        'classifier', variant, parameters, DRIVE_IDS.get(variant), baidu, key
    )


# From the READMEs of the repository's main branch. Keys are variants, or configs that
# the file belongs to.
FILES = {
    'T': _classifier('T', 27.8, '1M45YXZgVvp6Ew9DO8UhdlA', 'nkju'),
    'S': _classifier('S', 30.7, '1Xf4MXfb_soCnJFBeNDmoQQ', 'fgqj'),
    'B': _classifier('B', 52.0, '1f5dH__UGDXb-HoOPHT5p0A', '7md9'),
    'L': _classifier('L', 92.0, '1YJLeHy_cxLBrZLklQBCA_A', 'cc89'),
    'ppS': _classifier('ppS', 23.3, '1smc_kRoogd0Ig5vfqwuGTA', 'crsf'),
    'ppB': _classifier('ppB', 52.0, '13XVP0ebtNcyRMmkl11ALYg', 'crsf'),
    'ppL': _classifier('ppL', 92.0, '1xtPh-ndcOxRM7fPYYxIIRg', 'crsf'),
    'ppH': _classifier('ppH', 96.0, '1xtPh-ndcOxRM7fPYYxIIRg', 'crsf'),
    'retinanet_crossformer_s_fpn_1x_coco': Published(
        *('detector', 'S', 40.8),
        *('1OEEottS4fYGVZcPZG6WuBlKMK0tZLPZW', '1Ckrk3Z1uA65ve43_hL3ZFg', 'ift3'),
    ),
    'retinanet_crossformer_b_fpn_1x_coco': Published(
        *('detector', 'B', 62.1),
        *('1TOuLLf_S4Ixo6COvaHQAocACR4NKKnGz', '1ESE7i1JpVjxZmB5ZTgXA5w', 'hsd5'),
    ),
    'mask_rcnn_crossformer_s_fpn_1x_coco': Published(
        *('detector', 'S', 50.2),
        *('1qgO3-wnsJQw9Nj304AOj-TjVyadPPtvf', '1ytk95p-rjqI3UNEHaYqKKA', '4omu'),
    ),
    'mask_rcnn_crossformer_b_fpn_1x_coco': Published(
        *('detector', 'B', 71.5),
        *('1urkCa8Inss9CL1G1OgM4tWR5PSf6Ofn4', '1N_EGRLBuIXgQh6J0Oyh00g', 'kjf4'),
    ),
    'fpn_crossformer_s_80k_ade20k': Published(
        *('segmentor', 'S', 34.3),
        *('1I-zpGG5rvkTtrTUnOF8Fx11yeb6pXGYi', '14K3gJS3UcnEZNwhTWHdsFg', 'sn5h'),
    ),
    'fpn_crossformer_b_80k_ade20k': Published(
        *('segmentor', 'B', 55.6),
        *('1EjAnRc8Sau0un1ymqDVhFebHPeBIjukK', '1eCYENrLZsxjAQKW3eAQeUA', 'joi5'),
    ),
    'fpn_crossformer_l_80k_ade20k': Published(
        *('segmentor', 'L', 95.4),
        *('12WS9lX9yR5skxdt3N2HE3b2EaDSMwUMY', '150b8-v1StaMHACIaM0hZVA', '6v5d'),
    ),
    'upernet_crossformer_s_160k_ade20k': Published(
        *('segmentor', 'S', 62.3),
        *('1VKu4D6oxYdO1VVILLMhOQy8oCxKGH5gx', '1MLcAOiJ22AFKUa6_t1psOQ', 'wesb'),
    ),
    'upernet_crossformer_b_160k_ade20k': Published(
        *('segmentor', 'B', 83.6),
        *('1B8VTNeidrzlfsOkQUKgmX4m_UfCIm58i', '1311pBQluwJGiVdWY1WE16Q', 'j061'),
    ),
    'upernet_crossformer_l_160k_ade20k': Published(
        *('segmentor', 'L', 125.5),
        *('1I9ph5MeCwlTF2PNCkIYMFXYsdywp9nU1', '1Yu8QB42hcbKNGQ46Wx_NaQ', '17ks'),
    ),
}
NEVER = (
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
        near = get_close_matches(name, FILES, n=3, cutoff=0.5)
        advice = f'near are {", ".join(near)}. ' if near else ''
        fail(f'no weights named {args.name!r} were published; {advice}{NEVER}')
    published = FILES[name]
    # A classifier gets the name that the configs load.
    file = backbone_file(name) if published.kind == 'classifier' else f'{name}.pth'
    fetch(published, args.folder / file)


def fetch(published: Published, path: Path) -> None:
    """Download a file from Google Drive and check it.

    It gets its name only then. A download that was interrupted is kept beside it, and
    continued the next time.
    """
    if published.drive is None:
        fail(
            f'{full_name(published.variant)} is on BaiduCloud only: open '
            f'{share(published)} in a browser (key {published.key}), and put the file '
            f'at {path}'
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
    except Exception as error:  # of many kinds, from server and network
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


def share(published: Published) -> str:
    """Return the address on BaiduCloud."""
    return f'https://pan.baidu.com/s/{published.baidu}'


def print_list() -> None:
    """Print each file with its size and place."""
    width = max(map(len, FILES))
    for name, one in FILES.items():
        if one.drive:
            place = f'https://drive.google.com/file/d/{one.drive}'
        else:
            place = f'by hand: {share(one)} (key {one.key})'
        size = f'{one.parameters:5.1f} M parameters'
        print(f'{name:{width}}  {one.kind:10}  {size}  {place}')
    print(f'{NEVER}\nThe links are from {REPOSITORY}.')


def fail(message: str) -> NoReturn:
    """End with one message on stderr."""
    sys.exit(f'crossformer-weights: {message}')
