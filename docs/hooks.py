"""MkDocs hooks that edit pages before they are rendered."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links out of docs/ by their text: the site does not contain the code."""
    return re.sub(r'\[([^\]]+)\]\(\.\./[^)]+\)', r'\1', markdown)
