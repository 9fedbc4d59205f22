"""Plots of attention, and the HTML page in a real browser."""

import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from crossformer_mm.attention_record import record_attention
from tests.helpers import DETECTOR, ROOT

TOOL = ROOT / 'tools' / 'visualize.py'
BROWSER = shutil.which('chromium')
PICTURES = ('groups', 'attention', 'embedding', 'position_bias', 'features')
SIZE = 160


def visualize(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Run the tool on a checkpoint and an image; return the folder and backbone."""
    folder = tmp_path_factory.mktemp('visualize')
    torch.manual_seed(0)
    backbone = MODELS.build(Config.fromfile(DETECTOR).model.backbone)
    # With initial weights, attention is nearly uniform.
    for parameter in backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save({'state_dict': backbone.state_dict()}, folder / 'backbone.pth')
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / 'a <b>.png'), cv2.blur(picture, (5, 5)))
    run = visualize(
        *(folder / 'a <b>.png', '--config', DETECTOR),
        *('--checkpoint', folder / 'backbone.pth', '--out', folder / 'out'),
        *('--size', SIZE, '--stage', 2, '--pixel', 100, 30),
    )
    assert run.returncode == 0, run.stderr
    return folder, backbone.eval()


@pytest.mark.parametrize('size', [(90, 120), (131, 57), (64, 64), (50, 225)])
def test_feature_titles_are_aligned(size, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from parts.attention_plots import plot_features

    # Rounding up changes the aspect ratio of the maps.
    shapes = [tuple(-(-side // 2**i) for side in size) for i in (2, 3, 4, 5)]
    outputs = [torch.rand(1, 8, *shape) for shape in shapes]
    figure = plot_features(np.zeros((*size, 3), np.uint8), outputs, range(4))
    figure.draw_without_rendering()
    tops = [axes.get_window_extent().y1 for axes in figure.axes[:5]]
    assert max(tops) - min(tops) < 1


def test_pictures_and_page_are_written(made):
    folder, _ = made
    for name in PICTURES:
        picture = cv2.imread(str(folder / 'out' / f'{name}.png'))
        assert picture.std() > 10
    assert (folder / 'out' / 'attention.html').stat().st_size > 100_000
    assert {path.stem for path in (folder / 'out').iterdir()} == {*PICTURES}


@pytest.fixture(scope='module')
def page(made):
    """Open the page in headless Chromium."""
    if BROWSER is None:
        pytest.skip('no browser: apt-get install chromium')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers lack the sandbox and have little shared memory.
        options = ['--no-sandbox', '--disable-dev-shm-usage']
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        page = browser.new_page(viewport=dict(width=1280, height=900))
        errors, fetched = [], []
        page.on('pageerror', lambda error: errors.append(error))
        page.on('request', lambda request: fetched.append(request.url))
        page.goto((made[0] / 'out' / 'attention.html').as_uri())
        page.wait_for_function('document.body.innerText.includes("attends most")')
        # Only the page itself and embedded data are loaded.
        (url,) = (url for url in fetched if not url.startswith('data:'))
        assert url.startswith('file:')
        yield page
        assert not errors
        browser.close()


def click(page, x, y):
    """Click a pixel of the image; return the status text of the page."""
    box = page.locator('canvas').bounding_box()
    scale = min(box['width'] / SIZE, box['height'] / 120)
    page.mouse.click(box['x'] + x * scale, box['y'] + y * scale)
    return page.locator('#status').inner_text()


def choose(page, part, name):
    page.locator(f'#{part} button', has_text=re.compile(f'^{name}')).first.click()
    return page.locator('#status').inner_text()


def canvas_url(page):
    return page.locator('canvas').evaluate('canvas => canvas.toDataURL()')


def test_page_responds_to_clicks(page):
    first = click(page, 20, 20)
    assert 'row 6, column 6 of 30 × 40: short-distance attention' in first
    before = canvas_url(page)
    assert 'row 1, column 40 of 30 × 40' in click(page, 159, 1)
    assert canvas_url(page) != before
    assert 'row 1, column 10 of 8 × 10: short-' in choose(page, 'stages', '3')
    before = canvas_url(page)
    assert 'row 1, column 10 of 8 × 10: long-' in choose(page, 'blocks', '2 LDA')
    assert canvas_url(page) != before
    before = canvas_url(page)
    choose(page, 'heads', '3')
    assert canvas_url(page) != before
    marked = page.locator('button[aria-pressed=true]').all_inner_texts()
    assert marked == ['3', '2 LDA', '3']
    # In a stage with fewer blocks and heads, the last ones are selected.
    assert 'of 15 × 20: short-' in choose(page, 'stages', '2')


def test_page_shows_the_weights_of_the_network(made, page):
    folder, backbone = made
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        from visualize import normalize, read_image
    finally:
        sys.path.pop(0)
    image = read_image(folder / 'a <b>.png', SIZE)
    with record_attention(backbone) as records, torch.no_grad():
        backbone(normalize(image, Config.fromfile(DETECTOR)))
    for stage, block, head, x, y in [
        (3, 1, 2, 77, 60),
        (3, 2, 8, 8, 110),
        (4, 3, 1, 155, 3),
    ]:
        choose(page, 'stages', stage)
        choose(page, 'blocks', f'{block} ')
        choose(page, 'heads', head)
        said = click(page, x, y)
        cell = 4 * 2 ** (stage - 1)
        record = records[stage - 1][block - 1]
        numbers, weights = record.of_token(y // cell, x // cell)
        row, col = map(
            int, re.search(r'most to row (\d+), column (\d+)', said).groups()
        )
        shown = (row - 1) * record.shape[1] + col - 1
        weight = weights[head - 1][numbers == shown]
        # Weights are stored in a byte, so differences below 1/200 are lost.
        assert weight >= weights[head - 1].max() * (1 - 1 / 200)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('--stage', 5), '--stage 5: the backbone has 4 stages'),
        (('--stage', 2, '--block', 9), '--block 9: stage 2 has 1 blocks'),
        (('--pixel', 200, 3), '--pixel 200 3 is outside of the image, which is 160 x'),
    ],
)
def test_out_of_range_arguments(made, arguments, message, tmp_path):
    folder, _ = made
    run = visualize(
        *(folder / 'a <b>.png', '--config', DETECTOR),
        *('--checkpoint', folder / 'backbone.pth', '--out', tmp_path / 'out'),
        *('--size', SIZE, *arguments),
    )
    assert run.returncode == 1 and message in run.stderr
    assert not (tmp_path / 'out').exists()
