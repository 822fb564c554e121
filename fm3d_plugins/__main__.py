"""`python -m fm3d_plugins`: the command `fm3d`."""

from fm3d_plugins.cli.main import main

if __name__ == "__main__":
    main()
