"""What MkDocs changes in a page before it renders it."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep only the text of links out of docs/: the site does not hold the code."""
    return re.sub(r'\[([^\]]+)\]\(\.\./[^)]+\)', r'\1', markdown)
