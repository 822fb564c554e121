"""The command `fm3d`."""
