"""Look after files of encoders: inspect or convert one; lines of text out."""

import argparse

from stealing.commands import one_line_errors
from stealing.encoders.foreign.convert import add_commands


def main() -> None:
    """Run the chosen command; exit with code 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m stealing.encoders", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_commands(commands)
    chosen = parser.parse_args()
    with one_line_errors():
        chosen.run(chosen)


if __name__ == "__main__":
    main()
