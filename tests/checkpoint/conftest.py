import pytest

from crossformer_mm.models.zoo import ARCHS


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    """Publish two variants that are small enough to be written many times."""
    common = dict(ARCHS['T'], embed_dims=16, num_heads=(1, 2, 4, 8))
    monkeypatch.setitem(ARCHS, 'tiny', dict(common, depths=(1, 1, 2, 1)))
    monkeypatch.setitem(ARCHS, 'deep', dict(common, depths=(1, 1, 4, 1)))
