"""Six ways of seeing in 3D behind nerfstudio's commands."""

from fm3d_plugins.compatibility import allow_numpy_scalars_in_checkpoints

allow_numpy_scalars_in_checkpoints()
