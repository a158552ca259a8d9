"""The command line of ltbench, from a checkout: `python bench.py --help`."""

from ltbench.cli import main

if __name__ == "__main__":
    main()
