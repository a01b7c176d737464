"""The cache of mypy that rendered services share."""

from pathlib import Path

from tests.type_cache import keep, lend


def service(directory: Path, version: str = "2.4.1", **cached: str) -> Path:
    """Make a service with this mypy in its environment, and these files in mypy's cache."""
    (directory / f".venv/lib/python3.11/site-packages/mypy-{version}.dist-info").mkdir(parents=True)
    for name, text in cached.items():
        (directory / ".mypy_cache").mkdir(exist_ok=True)
        (directory / ".mypy_cache" / name).write_text(text)
    return directory


def cached(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.glob(".mypy_cache/*")}


def test_the_next_service_gets_the_cache(tmp_path: Path) -> None:
    keep(service(tmp_path / "first", modules="checked"), tmp_path / "kept")
    later = service(tmp_path / "later")
    lend(later, tmp_path / "kept")
    assert cached(later) == {"modules": "checked"}


def test_a_service_with_another_mypy_gets_none(tmp_path: Path) -> None:
    keep(service(tmp_path / "first", modules="checked"), tmp_path / "kept")
    later = service(tmp_path / "later", "2.5.0")
    lend(later, tmp_path / "kept")
    assert cached(later) == {}


def test_a_kept_cache_does_not_change(tmp_path: Path) -> None:
    """Other sessions may be reading it."""
    keep(service(tmp_path / "first", modules="checked"), tmp_path / "kept")
    keep(service(tmp_path / "second", modules="others"), tmp_path / "kept")
    assert [path.read_text() for path in (tmp_path / "kept").rglob("modules")] == ["checked"]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_without_a_cache_nothing_is_kept(tmp_path: Path) -> None:
    keep(service(tmp_path / "first"), tmp_path / "kept")
    lend(service(tmp_path / "second"), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    assert cached(tmp_path / "second") == {}
