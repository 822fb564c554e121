"""Six ways of seeing in 3D behind nerfstudio's commands."""

from fm3d_plugins.compatibility import allow_numpy_scalars_in_checkpoints

allow_numpy_scalars_in_checkpoints()


def __getattr__(name: str) -> str:
    """`__version__`, as it was installed."""
    if name == "__version__":
        from importlib.metadata import version

        return version("fm3d-plugins")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
