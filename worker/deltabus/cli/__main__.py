"""`python -m deltabus.cli`: the way the command line starts its own worker processes."""

from deltabus.cli import main

if __name__ == "__main__":
    main()
