"""`python -m sbert_ft`: the command line, also where the `sbert-ft` script is not on the path."""

import sys

from sbert_ft.cli import main

if __name__ == "__main__":
    sys.exit(main())
