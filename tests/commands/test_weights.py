"""The command crossformer-weights, with a local server that mimics Google Drive.

The tests do not contact the real one.
"""

import http.server
import re
import sys
import threading
from urllib.parse import parse_qs, urlsplit

import gdown
import pytest
import requests

from crossformer_mm.checkpoint.convert import sha256
from crossformer_mm.commands import weights
from crossformer_mm.models.archs import ARCHS
from tests.checkpoint import kinds

CONFIRM = """<html><body><form id="download-form" method="get"
action="https://drive.usercontent.google.com/download"><input type="hidden" name="id"
value="{id}"><input type="hidden" name="confirm" value="t"></form></body></html>
""".replace('\n', ' ')
QUOTA = (
    '<html><body><p class="uc-error-subcaption">Too many users have viewed or '
    'downloaded this file recently.</p></body></html>'
)


class Drive(http.server.BaseHTTPRequestHandler):
    """Asks for a confirmation, then sends a file; supports range requests."""

    content = b''
    page = None  # sent instead of the confirmation page
    cut = None  # number of bytes after which the connection is closed once
    ranges = []

    def log_message(self, *args):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == '/uc':
            (file_id,) = parse_qs(url.query)['id']
            self.send(200, (Drive.page or CONFIRM.format(id=file_id)).encode())
            return
        start, total = 0, len(Drive.content)
        if found := re.match(r'bytes=(\d+)-', self.headers.get('Range', '')):
            start = int(found[1])
            Drive.ranges.append(start)
        headers = {
            'Content-Type': 'application/octet-stream',
            'Content-Disposition': 'attachment; filename="crossformer.pth"',
            'Accept-Ranges': 'bytes',
        }
        if start:
            headers['Content-Range'] = f'bytes {start}-{total - 1}/{total}'
        body, Drive.cut, cut = Drive.content[start:], None, Drive.cut
        self.send(206 if start else 200, body, cut, **headers)

    def send(self, code, body, cut=None, **headers):
        self.send_response(code)
        headers = {'Content-Type': 'text/html; charset=utf-8'} | headers
        for name, value in (headers | {'Content-Length': str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])


@pytest.fixture
def drive(monkeypatch):
    """Redirect requests for Google Drive to a local server."""
    monkeypatch.setattr(Drive, 'content', b'')
    monkeypatch.setattr(Drive, 'page', None)
    monkeypatch.setattr(Drive, 'cut', None)
    monkeypatch.setattr(Drive, 'ranges', [])
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Drive) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        here, request = (
            f'http://127.0.0.1:{server.server_port}',
            requests.Session.request,
        )

        def to_here(session, method, url, *args, **kwargs):
            url, found = re.subn(
                r'https://drive\.(usercontent\.)?google\.com', here, url
            )
            assert found or url.startswith(here), f'{url} is elsewhere'
            return request(session, method, url, *args, **kwargs)

        monkeypatch.setattr(requests.Session, 'request', to_here)
        yield Drive
        server.shutdown()
        thread.join()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Return a function that calls the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['crossformer-weights', *arguments])
        weights.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Replace the published CrossFormer-S by a small classifier; return its bytes."""
    kinds.publish_small_variants(monkeypatch)
    small = weights.FILES['S']._replace(variant='tiny')
    monkeypatch.setitem(weights.FILES, 'S', small)
    kinds.classifier(tmp_path / 'source.pth', 'tiny')
    content = (tmp_path / 'source.pth').read_bytes()
    (tmp_path / 'source.pth').unlink()
    return content


def test_list(command):
    lines = command().splitlines()
    assert len([line for line in lines if 'drive.google.com/file/d/' in line]) == 14
    (line,) = (line for line in lines if line.startswith('ppS '))
    assert '23.3 M' in line and 'pan.baidu.com' in line and '(key crsf)' in line
    assert 'Never published: detectors and segmentors on CrossFormer++' in lines[-2]


def test_each_architecture_has_a_published_file():
    assert ARCHS.keys() <= weights.FILES.keys()  # a missing file's error looks it up


def test_fetch(command, drive, tiny, tmp_path):
    drive.content = tiny
    out = command('S')
    (file,) = (tmp_path / 'pretrained').iterdir()
    assert file.name == 'backbone-crossformer-s.pth' and file.read_bytes() == tiny
    assert f'SHA-256 {sha256(file)}' in out and 'classifier' in out
    with pytest.raises(SystemExit, match='exists already'):
        command('S')


def test_interrupted_transfer_is_resumed(command, drive, tiny, tmp_path):
    drive.content, drive.cut = tiny, len(tiny) // 2
    with pytest.raises(SystemExit, match='The same command continues'):
        command('S')
    assert not (tmp_path / 'pretrained' / 'backbone-crossformer-s.pth').exists()
    command('S')
    (start,) = drive.ranges
    assert 0 < start <= len(tiny) // 2
    (file,) = (tmp_path / 'pretrained').iterdir()
    assert file.read_bytes() == tiny


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('S', 'Too many users have viewed'),
        ('retinanet_crossformer_s_fpn_1x_coco', 'Too many users have viewed'),
    ],
)
def test_quota(name, message, command, drive, tmp_path):
    drive.page = QUOTA
    with pytest.raises(SystemExit, match=message):
        command(name)
    assert not list((tmp_path / 'pretrained').iterdir())


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<!DOCTYPE html><html>Sign in</html>', 'web page'),
        (b'no checkpoint', 'something else'),
    ],
)
def test_response_without_a_checkpoint(content, message, command, drive, tmp_path):
    drive.content = content
    with pytest.raises(SystemExit, match=message):
        command('S')
    assert not list((tmp_path / 'pretrained').iterdir())


def test_another_variant(command, drive, tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(weights.FILES, 'S', weights.FILES['S']._replace(variant='deep'))
    drive.content = tiny
    with pytest.raises(SystemExit, match='it holds a classifier of CrossFormer-tiny'):
        command('S')
    assert not list((tmp_path / 'pretrained').iterdir())


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('++S', 'BaiduCloud only: open https://pan.baidu.com/s/'),
        ('++S', 'put the file at pretrained/backbone-crossformerpp-s.pth'),
        ('mask_rcnn_crossformerpp_s_fpn_1x_coco', 'Never published'),
        ('maskrcnn_crossformer_s_fpn_1x_coco', 'near are mask_rcnn_crossformer_s'),
    ],
)
def test_unavailable_files(name, message, command, tmp_path):
    with pytest.raises(SystemExit, match=re.escape(message)):
        command(name)
    assert not list(tmp_path.iterdir())


def test_without_gdown(command, monkeypatch):
    monkeypatch.setitem(sys.modules, gdown.__name__, None)
    with pytest.raises(SystemExit, match='pip install'):
        command('S')
