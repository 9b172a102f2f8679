"""What shows a training: the options of command lines, and the board that they choose."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kneel.engine.board import Board
from kneel.engine.board_tensorboard import TensorBoard
from kneel.engine.board_visdom import VisdomBoard
from kneel.engine.config import ConfigError


def add_board_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line choose a board."""
    parser.add_argument(
        "--visdom",
        metavar="HOST:PORT",
        default=os.environ.get("VISDOM"),
        help="show curves and pictures on this visdom server, such as localhost:8097 (default: $VISDOM, else none)",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        default=os.environ.get("TENSORBOARD") == "1",
        help="instead write files for TensorBoard into tensorboard/ of the run (default: where $TENSORBOARD is 1)",
    )


def choose_board(arguments: argparse.Namespace, folder: Path) -> Board | None:
    """Make the board that `arguments` ask for, for the training in a folder ``.../NAME/fold_K``; None for none."""
    if arguments.tensorboard:
        return TensorBoard(folder / "tensorboard")
    if not arguments.visdom:
        return None
    host, _, port = arguments.visdom.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"--visdom {arguments.visdom}: must be HOST:PORT, such as localhost:8097")
    return VisdomBoard(host or "localhost", int(port), f"{folder.parent.name}_{folder.name}")
