"""Allowed imports between the modules, as documented in docs/contribute.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'crossformer_mm'
MODULES = [path for path in PACKAGE.glob('**/*.py') if '.mim' not in path.parts]
ALLOWED = {
    'ops': (),
    'models': ('ops',),
    'ablations': ('models', 'ops'),
    'attention_record': ('models', 'ops'),
    'checkpoint': ('models.archs', 'version'),
    'engine': ('models', 'ops', 'checkpoint'),
}


def imports(path):
    """Yield the names of the package's modules that a module imports."""
    here = ['crossformer_mm', *path.relative_to(PACKAGE).with_suffix('').parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = here[: -node.level] if node.level else []
            base = '.'.join([*parent, *filter(None, [node.module])])
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        yield from (
            n.partition('.')[2] for n in names if n.startswith('crossformer_mm.')
        )


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_are_allowed_for_the_folder(path):
    folder = path.relative_to(PACKAGE).with_suffix('').parts[0]
    for name in imports(path):
        assert not name.startswith('tools')
        if folder in ALLOWED:
            allowed = (folder, *ALLOWED[folder])
            assert any(f'{name}.'.startswith(f'{a}.') for a in allowed), name
