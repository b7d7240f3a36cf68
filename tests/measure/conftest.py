import pytest


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder of its own for what a test measures, in a run of its own and in no chapter."""
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path / "records"))
    monkeypatch.setenv("FRUGAL_RUN", "first")
    monkeypatch.delenv("FRUGAL_CHAPTER", raising=False)
    return tmp_path / "records"
