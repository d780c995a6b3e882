"""`fer-jax bench`, from a checkout."""

import sys

from fer_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
