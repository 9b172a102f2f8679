#!/usr/bin/env python
"""Turn weights that DeepKnee's authors trained into snapshots that `deepknee read --weights OUT` uses.

Research use only. Not a medical device.

Writes OUT/FILE.safetensors (with a readable .json) for every FILE.pth. All files given are read as one ensemble, of any
number and any widths, in the way of 2018: the softmax of the sum of their logits, which is more certain of itself than
right. `deepknee read` also needs networks that find the knees: name their folder as well,

    deepknee read FILMS --out DIR --weights OUT --weights pretrained/kneel
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deepknee.convert import describe, read_mean_std, read_network
from kneel.engine.foreign import ConversionError
from kneel.engine.snapshot import save_snapshot


def main() -> int:
    """Convert; 0 when done, 2 when a file cannot be converted."""
    arguments = parse()
    try:
        convert(arguments)
    except ConversionError as error:
        print(f"convert_deepknee: {error}", file=sys.stderr)
        return 2
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, metavar="FILE", help=".pth files of theirs")
    parser.add_argument("--mean-std", type=Path, required=True, metavar="NPY", help="the authors' mean_std.npy")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the snapshots go")
    parser.add_argument(
        "--ensemble", default="deepknee_2018", metavar="NAME", help="name of the ensemble (default: deepknee_2018)"
    )
    return parser.parse_args()


def convert(arguments: argparse.Namespace) -> None:
    """Check every file before the first snapshot is written."""
    intensity = read_mean_std(arguments.mean_std)
    converted = {}
    for path in arguments.weights:
        target = arguments.out / f"{path.stem}.safetensors"
        if target in converted:
            raise ConversionError(f"{path}: two files would become {target}; rename one")
        member = read_network(path, intensity)
        converted[target] = member, describe(path, member, ensemble=arguments.ensemble)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for target, (member, meta) in converted.items():
        save_snapshot(target, member.net.state_dict(), meta)
        print(f"{target}: width {meta['model']['width']}, ensemble {arguments.ensemble}, mode {meta['mode']}")


if __name__ == "__main__":
    sys.exit(main())
