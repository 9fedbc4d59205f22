"""Make docs/images/attention_page.png, a screenshot of the page of visualize.py.

    python docs/images/attention_page.py attention.html

Needs Chromium and playwright; `make test` installs the latter.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_suffix('.png')
TOKEN = 280 / 320, 104 / 320  # relative position in the image; --pixel in the Makefile


def main() -> None:
    """Select a stage, a block and a token, and save a screenshot."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium'),
            args=['--no-sandbox', '--disable-dev-shm-usage'],  # for a container
        )
        page = browser.new_page(viewport=dict(width=1280, height=860))
        page.goto(Path(sys.argv[1]).resolve().as_uri())
        page.wait_for_function('document.body.innerText.includes("attends most")')
        page.locator('#stages button', has_text='3').click()
        page.locator('#blocks button', has_text='8 LDA').click()
        box = page.locator('canvas').bounding_box()
        assert box is not None
        side = min(box['width'], box['height'])
        page.mouse.click(box['x'] + TOKEN[0] * side, box['y'] + TOKEN[1] * side)
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == '__main__':
    main()
