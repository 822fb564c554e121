"""Where caches are."""

from pathlib import Path

import pytest

from fm3d_plugins.cache_folder import cache_folder


def test_argument_goes_before_environment_and_home_is_found(monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", "~/caches")
    assert cache_folder() == Path.home() / "caches"
    assert cache_folder(Path("/other")) == Path("/other")


def test_home_of_nobody_is_named(monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", "~no_such_user_here/caches")
    with pytest.raises(ValueError, match="~no_such_user_here/caches cannot be found.*FM3D_CACHE"):
        cache_folder()
