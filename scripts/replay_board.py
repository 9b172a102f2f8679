#!/usr/bin/env python
"""Rebuild the boards of trainings from their metrics.csv and pictures/: after a server was lost, or to look back.

Shows every training found in the folders given. For visdom a server must run, such as scripts/visdom_server.py.

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from board_options import add_board_options, choose_board

from kneel.engine.board import METRICS, replay
from kneel.engine.config import ConfigError


def main() -> int:
    """Show all; 0 when each was shown, 2 when there is none, 1 when any was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="run folders, or folders of them: WORKDIR")
    add_board_options(parser)
    arguments = parser.parse_args()
    if not arguments.visdom and not arguments.tensorboard:
        arguments.visdom = "localhost:8097"
    runs = sorted({path.parent.resolve() for folder in arguments.folders for path in folder.rglob(METRICS)})
    if not runs:
        print(f"replay_board: no {METRICS} below {', '.join(map(str, arguments.folders))}", file=sys.stderr)
        return 2
    return max([show(folder, arguments) for folder in runs])


def show(folder: Path, arguments: argparse.Namespace) -> int:
    """Show one training; 0 when it was shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a board that cannot be reached only warns
            shown = choose_board(arguments, folder)
            assert shown is not None
            epochs = replay(folder, shown)
    except (UserWarning, OSError, ValueError, ConfigError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {epochs} epochs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
