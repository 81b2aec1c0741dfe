"""Entry point of ``byheart`` and ``python -m byheart``."""

import sys

from byheart import interrupts


def main() -> None:
    """Run the command line and exit with its status."""
    interrupts.answer()
    from byheart.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
