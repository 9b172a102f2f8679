"""Read knee radiographs: ``deepknee read`` under the name that KNEEL promised (see ``deepknee read --help``)."""

import sys

from deepknee.cli import main

if __name__ == "__main__":
    sys.exit(main(["read", *sys.argv[1:]]))
