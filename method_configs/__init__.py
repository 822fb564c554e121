"""One `MethodSpecification` per method."""

from fm3d_plugins.compatibility import list_methods_without_reading_sources

# nerfstudio imports this package just before it lists all methods.
list_methods_without_reading_sources()
