import http.server
import threading
from functools import partial

import pytest

from tests.checkpoint import kinds


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    kinds.publish_small_variants(monkeypatch)


@pytest.fixture
def server(tmp_path):
    """Serve ``tmp_path`` over HTTP on localhost."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()
        thread.join()
