"""Entry point of ``byheart`` and ``python -m byheart``."""

import sys

from byheart.cli import main as _main


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(_main())


if __name__ == "__main__":
    main()
