"""Entry point of the command line: version check, then errors turned into exit codes."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `orchestrate`; exit code 0, 1 (failed while running), 2 (bad input) or 130 (interrupted)."""
    if sys.version_info >= (3, 14):
        sys.exit(
            "orchestrate needs Python 3.11 to 3.13: Python 3.14 has a standard package named `compression` (PEP 784), "
            "which our folder of that name would meet"
        )
    from orchestrator.interruption import obey_signals

    obey_signals()
    from orchestrator.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
