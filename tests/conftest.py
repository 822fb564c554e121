"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

# Small tests are fastest with one thread: several pools of spinning threads hold each other up.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and golden files; absent in a user's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the test data folder {SHARED}, which is absent")
    return SHARED
