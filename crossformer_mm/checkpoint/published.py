"""Where the authors' pretrained classifiers are."""

from .recognize import full_name

REPOSITORY = 'https://github.com/cheerss/CrossFormer'
# Google Drive ids, from the repository's README; the CrossFormer++ files are on
# BaiduCloud alone.
DRIVE_IDS = {
    'T': '1YSkU9enn-ITyrbxLH13zNcBYvWSEidfq',
    'S': '1RAkigsgr33va0RZ85S2Shs2BhXYcS6U8',
    'B': '1bK8biVCi17nz_nkt7rBfio_kywUpllSU',
    'L': '1zRWByVW_KIZ87NgaBkDIm60DAsGJErdG',
}


def backbone_file(arch: str) -> str:
    """Return the name under which configs look for a pretrained classifier.

    Args:
        arch (str): A key of ``archs.ARCHS``.
    """
    generation = 'pp' if arch.startswith('pp') else ''
    return f'backbone-crossformer{generation}-{arch[-1].lower()}.pth'


def where_published(arch: str | None) -> str:
    """Tell where the published classifier is.

    Args:
        arch (str, optional): A key of ``archs.ARCHS``; None is like none of them.
    """
    if arch is None:
        return f'The published files: see {REPOSITORY}.'
    if arch in DRIVE_IDS:
        place = f'https://drive.google.com/file/d/{DRIVE_IDS[arch]}'
    else:
        place = f'linked from {REPOSITORY} (BaiduCloud)'
    return f'The published {full_name(arch)}: {place} .'
