"""The command ``crossformer-weights``: fetch the weights that the authors published.

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

from ..checkpoint.published import DRIVE_IDS, REPOSITORY, backbone_file
from ..checkpoint.reader import CheckpointError, read_checkpoint
from ..checkpoint.recognize import full_name, recognize
from ..checkpoint.writer import sha256


class Published(NamedTuple):
    """A file that the authors published.

    Args:
        kind (str): What it holds: 'classifier', 'detector' or 'segmentor'.
        variant (str): Key of ``archs.ARCHS``.
        parameters (float): Millions of them, as published.
        drive (str, optional): Id on Google Drive; None where it is not there.
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


# As in the READMEs of the repository's main branch. By the name of a variant, or of the
# config that the file belongs to.
FILES = {
    'T': _classifier('T', 27.8, '1M45YXZgVvp6Ew9DO8UhdlA', 'nkju'),
    'S': _classifier('S', 30.7, '1Xf4MXfb_soCnJFBeNDmoQQ', 'fgqj'),
    'B': _classifier('B', 52.0, '1f5dH__UGDXb-HoOPHT5p0A', '7md9'),
    'L': _classifier('L', 92.0, '1YJLeHy_cxLBrZLklQBCA_A', 'cc89'),
    'ppS': _classifier('ppS', 23.3, '1smc_kRoogd0Ig5vfqwuGTA', 'crsf'),
    'ppB': _classifier('ppB', 52.0, '13XVP0ebtNcyRMmkl11ALYg', 'crsf'),
    'ppL': _classifier('ppL', 92.0, '1xtPh-ndcOxRM7fPYYxIIRg', 'crsf'),
    'ppH': _classifier('ppH', 96.0, '1xtPh-ndcOxRM7fPYYxIIRg', 'crsf'),
} | {
    name: Published(*row)
    for name, *row in (
        (
            *('retinanet_crossformer_s_fpn_1x_coco', 'detector', 'S', 40.8),
            *('1OEEottS4fYGVZcPZG6WuBlKMK0tZLPZW', '1Ckrk3Z1uA65ve43_hL3ZFg', 'ift3'),
        ),
        (
            *('retinanet_crossformer_b_fpn_1x_coco', 'detector', 'B', 62.1),
            *('1TOuLLf_S4Ixo6COvaHQAocACR4NKKnGz', '1ESE7i1JpVjxZmB5ZTgXA5w', 'hsd5'),
        ),
        (
            *('mask_rcnn_crossformer_s_fpn_1x_coco', 'detector', 'S', 50.2),
            *('1qgO3-wnsJQw9Nj304AOj-TjVyadPPtvf', '1ytk95p-rjqI3UNEHaYqKKA', '4omu'),
        ),
        (
            *('mask_rcnn_crossformer_b_fpn_1x_coco', 'detector', 'B', 71.5),
            *('1urkCa8Inss9CL1G1OgM4tWR5PSf6Ofn4', '1N_EGRLBuIXgQh6J0Oyh00g', 'kjf4'),
        ),
        (
            *('fpn_crossformer_s_80k_ade20k', 'segmentor', 'S', 34.3),
            *('1I-zpGG5rvkTtrTUnOF8Fx11yeb6pXGYi', '14K3gJS3UcnEZNwhTWHdsFg', 'sn5h'),
        ),
        (
            *('fpn_crossformer_b_80k_ade20k', 'segmentor', 'B', 55.6),
            *('1EjAnRc8Sau0un1ymqDVhFebHPeBIjukK', '1eCYENrLZsxjAQKW3eAQeUA', 'joi5'),
        ),
        (
            *('fpn_crossformer_l_80k_ade20k', 'segmentor', 'L', 95.4),
            *('12WS9lX9yR5skxdt3N2HE3b2EaDSMwUMY', '150b8-v1StaMHACIaM0hZVA', '6v5d'),
        ),
        (
            *('upernet_crossformer_s_160k_ade20k', 'segmentor', 'S', 62.3),
            *('1VKu4D6oxYdO1VVILLMhOQy8oCxKGH5gx', '1MLcAOiJ22AFKUa6_t1psOQ', 'wesb'),
        ),
        (
            *('upernet_crossformer_b_160k_ade20k', 'segmentor', 'B', 83.6),
            *('1B8VTNeidrzlfsOkQUKgmX4m_UfCIm58i', '1311pBQluwJGiVdWY1WE16Q', 'j061'),
        ),
        (
            *('upernet_crossformer_l_160k_ade20k', 'segmentor', 'L', 125.5),
            *('1I9ph5MeCwlTF2PNCkIYMFXYsdywp9nU1', '1Yu8QB42hcbKNGQ46Wx_NaQ', '17ks'),
        ),
    )
}
NEVER = (
    'Never published: detectors and segmentors on CrossFormer++ (an open box in the '
    "authors' README), those of the 3x schedules, and Cascade Mask R-CNN."
)


def main() -> None:
    """List the files, or fetch one."""
    parser = argparse.ArgumentParser(
        prog='crossformer-weights',
        description='List the weights that the authors of CrossFormer published; with '
        'a NAME, fetch them from Google Drive.',
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
    fetch(FILES[name], args.folder / file_name(name))


def file_name(name: str) -> str:
    """Name a file as the configs do: a classifier is the start of a training."""
    if name not in DRIVE_IDS:
        return f'{name}.pth'
    return backbone_file(name)


def fetch(published: Published, path: Path) -> None:
    """Fetch a file from Google Drive, look into it, and give it its name then only.

    A transfer that was cut off is kept beside it, and goes on the next time.
    """
    if published.drive is None:
        fail(
            f'{full_name(published.variant)} is on BaiduCloud only: open '
            f'{share(published)} in a browser (key {published.key}), and put the file '
            'where the config wants it'
        )
    if path.exists():
        fail(f'{path} is there already: remove it, or choose another --folder')
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
    except Exception as error:  # of many kinds, by the server's and the network's fault
        reason = ' '.join(str(error).split())
        advice = 'What came is kept, the same command goes on'
        fail(f'{path} was not fetched: {reason} {advice}')
    check(part, published)
    part.rename(path)
    print(f'{path}: {published.kind} of {full_name(published.variant)}')
    print(f'SHA-256 {sha256(path)}')


def check(part: Path, published: Published) -> None:
    """End, and remove a file, unless it holds what it should."""
    try:
        with part.open('rb') as file:
            if file.read(512).lstrip()[:1] == b'<':
                raise CheckpointError('it is a web page, no checkpoint')
        found = recognize(read_checkpoint(str(part)))
        if (found.kind, found.variant) != (published.kind, published.variant):
            raise CheckpointError(
                f'it holds a {found.kind} of {full_name(found.variant)}, not a '
                f'{published.kind} of {full_name(published.variant)}'
            )
    except CheckpointError as error:
        part.unlink()
        fail(f'what Google Drive sent is of no use: {error}')


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
