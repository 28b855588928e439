"""`python -m edgefl` is the `edgefl` command."""

from edgefl.cli import main

if __name__ == "__main__":
    main()
