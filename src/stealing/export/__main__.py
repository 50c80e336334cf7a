"""Export a surrogate to another program: a run or a file, a format and a place in; a file out."""

import argparse
from pathlib import Path

from stealing.commands import one_line_errors
from stealing.export.formats import FORMATS
from stealing.export.sources import open_source
from stealing.export.write import export
from stealing.text import printable


def main() -> None:
    """Export what the command names; exit with code 1 if it cannot be."""
    chosen = _parser().parse_args()
    with one_line_errors():
        source = open_source(chosen.source, chosen.trust)
        difference = export(source, chosen.to, chosen.file)
        print(
            printable(
                f"Written: {chosen.file} and its card; on {2 * len(source.images)} images its "
                f"features differ by at most {difference:.1g}."
            )
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stealing.export",
        description="Write a surrogate with its adapter, or an encoder, for another program.",
    )
    parser.add_argument(
        "source", type=Path, help="folder of a finished run, or a .safetensors file with its card"
    )
    parser.add_argument("file", type=Path, help="the new file; its model card gets the suffix .md")
    parser.add_argument("--to", choices=list(FORMATS), required=True, help="its format")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of your own whose classes the architecture may name",
    )
    return parser


if __name__ == "__main__":
    main()
