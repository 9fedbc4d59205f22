"""The documentation builds without a warning, and its commands are what they seem."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT, run_block

DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.glob('*.md'))
# A mark in a comment, and the fenced block after it.
MARKED = re.compile(r'(?:<!-- (.+?) -->\n)?```(\w+)\n(.+?)```', re.DOTALL)
# What such a mark says: it is run here, there, or cannot be run without the thing.
MARK = re.compile(r'run|run by hand on .+|tested by (\S+)|needs .+|file (\S+)')


def blocks(page):
    text = page.read_text()
    rest = MARKED.sub('', text)
    assert not re.search('^    ', rest, re.MULTILINE), f'{page.name}: fence the code'
    return MARKED.findall(text)


def test_builds_without_a_warning_or_a_dead_link(tmp_path):
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


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_command_is_marked(page):
    for mark, language, text in blocks(page):
        if language != 'sh':
            continue
        found = MARK.fullmatch(mark)
        assert found, f'{page.name}: no mark before {text!r}'
        if found[1]:
            assert (ROOT / found[1]).exists(), mark


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / 'README.md').read_text()
    anchors = {
        re.sub(r'[^\w -]', '', line.lstrip('# ').lower()).replace(' ', '-')
        for line in text.splitlines()
        if line.startswith('#')
    }
    for link in re.findall(r'\]\(([^)]+)\)', text):
        if link.startswith('#'):
            assert link[1:] in anchors, link
        elif '://' not in link:
            assert (ROOT / link.partition('#')[0]).exists(), link


def test_configs_and_tools_that_are_named_exist():
    for page in [*PAGES, ROOT / 'README.md']:
        for name in re.findall(
            r'(?<![\w/])((?:configs|tools)/\w+\.py)\b', page.read_text()
        ):
            assert (ROOT / name).is_file(), f'{page.name}: {name}'


@pytest.mark.slow
@pytest.mark.parametrize(
    'page',
    [page for page in PAGES if any(mark == 'run' for mark, *_ in blocks(page))],
    ids=lambda page: page.stem,
)
def test_commands_run(page, tmp_path):
    """In an empty folder with the repository's configs and tools, in their order."""
    for name in ('configs', 'tools', 'docs'):
        (tmp_path / name).symlink_to(ROOT / name)
    # The environment is the one that runs this.
    (tmp_path / '.venv').symlink_to(sys.prefix)
    for mark, language, text in blocks(page):
        if mark.startswith('file '):
            (tmp_path / mark.split()[1]).write_text(text)
        elif mark == 'run':
            run_block(language, text, tmp_path)
