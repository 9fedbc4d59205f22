import pytest

from tests.checkpoint import kinds


@pytest.fixture
def small_variants(monkeypatch):
    kinds.publish_small_variants(monkeypatch)
