"""The documentation builds, its commands run, and its links and pictures exist."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT, run_block

DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.glob('*.md'))
TEXTS = [*PAGES, ROOT / 'README.md', ROOT / 'CHANGELOG.md']
CONTRIBUTE = (DOCS / 'contribute.md').read_text()
# A mark in an HTML comment, and the fenced block after it.
MARKED = re.compile(r'(?:<!-- ([^>]+) -->\n)?```(\w+)\n(.+?)```', re.DOTALL)
# Valid marks: run here, run by hand or in another test, or not run for a reason.
MARK = re.compile(r'run|run by hand on .+|tested by (\S+)|needs .+|file (\S+)')


def page_id(page):
    return page.stem


def blocks(page):
    text = page.read_text()
    rest = MARKED.sub('', text)
    assert not re.search('^    ', rest, re.MULTILINE), f'{page.name}: fence the code'
    return MARKED.findall(text)


def test_builds_without_warnings_or_dead_links(tmp_path):
    built = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', tmp_path / 'site'],
        cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    assert 'WARNING' not in built.stdout
    assert (tmp_path / 'site' / 'attention' / 'index.html').is_file()


@pytest.mark.parametrize('page', TEXTS, ids=page_id)
def test_every_command_is_marked(page):
    for mark, language, text in blocks(page):
        if language != 'sh':
            continue
        found = MARK.fullmatch(mark)
        assert found, f'{page.name}: no mark before {text!r}'
        if found[1]:
            assert (ROOT / found[1]).exists(), mark


def anchors(page):
    return {
        re.sub(r'[^\w -]', '', line.lstrip('# ').lower()).replace(' ', '-')
        for line in page.read_text().splitlines()
        if line.startswith('#')
    }


@pytest.mark.parametrize('page', TEXTS, ids=page_id)
def test_link_targets_exist(page):
    for link in re.findall(r'\]\(([^)]+)\)', page.read_text()):
        if '://' not in link:
            name, _, anchor = link.partition('#')
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize('page', TEXTS, ids=page_id)
def test_mentioned_configs_and_tools_exist(page):
    for name in re.findall(
        r'(?<![\w/])((?:configs|tools)/\w+\.py)\b', page.read_text()
    ):
        assert (ROOT / name).is_file(), name


def test_readme_length():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


def test_every_picture_is_shown_and_made_by_make_docs_images():
    recipe = (ROOT / 'Makefile').read_text().partition('\ndocs-images:')[2]
    shown = ''.join(page.read_text() for page in TEXTS)
    for picture in (DOCS / 'images').glob('*.png'):
        assert f'images/{picture.name}' in shown
        assert re.search(rf'\b{picture.stem}\b', recipe), picture.name


def test_layout_lists_every_module_and_folder():
    package = ROOT / 'crossformer_mm'
    modules = {str(path.relative_to(package)) for path in package.glob('**/*.py')}
    modules = {name for name in modules if not name.startswith('.mim')}
    listed = re.findall(r'^\| `(\S+\.py)` \|', CONTRIBUTE, re.MULTILINE)
    assert set(listed) == modules
    assert len(listed) == len(modules)
    for parent in (package, ROOT / 'tools'):
        folders = {path.parent for path in parent.glob('*/*.py')} - {package / '.mim'}
        for folder in folders:
            assert re.search(rf'^  {folder.name}/ ', CONTRIBUTE, re.MULTILINE), folder


def test_terms_of_the_paper_link_to_the_code():
    rows = re.findall(
        r'^\| ([A-Z]{3}) \|.+\]\(\.\./(.+?)\): (.+) \|$', CONTRIBUTE, re.M
    )
    assert [term for term, *_ in rows] == ['CEL', 'SDA', 'LDA', 'DPB', 'ACL', 'PGS']
    for term, path, names in rows:
        code = (ROOT / path).read_text()
        for name in re.findall('`(.+?)`', names):
            defined = rf'^ *(class|def) {name}\b|\b{name} ?=|\b{name}='
            assert re.search(defined, code, re.MULTILINE), f'{term}: {name}'


@pytest.mark.slow
@pytest.mark.parametrize(
    'page',
    [page for page in PAGES if any(mark == 'run' for mark, *_ in blocks(page))],
    ids=page_id,
)
def test_commands_run(page, tmp_path):
    """Run the commands in order, in a folder with links to configs and tools."""
    for name in ('configs', 'tools', 'docs'):
        (tmp_path / name).symlink_to(ROOT / name)
    # Use the current environment.
    (tmp_path / '.venv').symlink_to(sys.prefix)
    for mark, language, text in blocks(page):
        if mark.startswith('file '):
            (tmp_path / mark.split()[1]).write_text(text)
        elif mark == 'run':
            run_block(language, text, tmp_path)
