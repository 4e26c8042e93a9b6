"""The command line: one verb a job. Text and tables go to standard output, everything else to standard error."""

# Nothing heavy is imported up here or in the commands' modules: `fewhertz --help` answers at once.
from __future__ import annotations

import io
import sys

from fewhertz.cli import evaluate as evaluate
from fewhertz.cli import inspect as inspect
from fewhertz.cli import run as run
from fewhertz.cli import see as see
from fewhertz.cli import serve as serve
from fewhertz.cli import train as train
from fewhertz.cli import tune as tune
from fewhertz.cli.inspect import methods_markdown as methods_markdown
from fewhertz.cli.shared import app


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign gets its number, no traceback
    app()
