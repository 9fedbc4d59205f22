"""Take docs/images/attention_page.png, a picture of the page that visualize.py writes.

    python docs/images/attention_page.py attention.html

Needs Chromium, and playwright, which `make test` installs.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_suffix('.png')
TOKEN = 0.5, 0.5  # as shares of the width and height of the image


def main() -> None:
    """Choose long-distance attention in stage 3 and a token, and save the view."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium'),
            args=['--no-sandbox', '--disable-dev-shm-usage'],  # for a container
        )
        page = browser.new_page(viewport=dict(width=1280, height=860))
        page.goto(Path(sys.argv[1]).resolve().as_uri())
        page.wait_for_function('document.body.innerText.includes("attends most")')
        page.locator('#stages button', has_text='3').click()
        page.locator('#blocks button', has_text='2 LDA').click()
        box = page.locator('canvas').bounding_box()
        assert box is not None
        page.mouse.click(
            box['x'] + TOKEN[0] * box['width'], box['y'] + TOKEN[1] * box['height']
        )
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == '__main__':
    main()
