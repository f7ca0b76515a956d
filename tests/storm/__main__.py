"""The storms by hand: ``python tests/storm api --calls 5000``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from storm import api, disks, kills, lines, starters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    storms = parser.add_subparsers(dest="storm", required=True)
    api.add_options(storms.add_parser("api", help=api.__doc__))
    lines.add_options(storms.add_parser("lines", help=lines.__doc__))
    starters.add_options(storms.add_parser("starters", help=starters.__doc__))
    disks.add_options(storms.add_parser("disks", help=disks.__doc__))
    kills.add_options(storms.add_parser("kills", help=kills.__doc__))
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
