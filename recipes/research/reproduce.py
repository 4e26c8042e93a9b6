"""Write the pages of docs/research that are made by code, and their pictures, from the packed results.

python -m recipes.research.reproduce
python -m recipes.research.reproduce --table    # that of docs/results.md, to standard output, and nothing else
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import depth, encoder, flex, lora, omni, tolerance, training_free
from .claims import page as claims
from .measured import Measured
from .tasks import DOCS, RESULTS

# each writes a page and its pictures into a folder, and returns their files
PAGES = (
    claims.write,
    training_free.write,
    tolerance.write,
    encoder.write,
    depth.write,
    lora.write,
    flex.write,
    omni.write,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of packed results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    parser.add_argument("--table", action="store_true", help="the table of docs/results.md alone")
    args = parser.parse_args()
    measured = Measured(args.results)
    if args.table:
        print(claims.rates_table(measured))
    else:
        args.docs.mkdir(parents=True, exist_ok=True)
        print(*(file for write in PAGES for file in write(measured, args.docs)), sep="\n")


if __name__ == "__main__":
    main()
