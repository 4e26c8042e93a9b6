"""Write docs/cli.md and docs/api.md from the code: `python docs/reference.py`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import typer

import fewhertz
from fewhertz.cli import app

DOCS = Path(__file__).parent
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Source")


def cli() -> str:
    """Every command: what it does, its arguments and options, examples."""
    group: Any = typer.main.get_command(app)
    parts = [
        "# Command line\n\nMade from the code by `python docs/reference.py`. Text and tables go to standard output, "
        "everything else to standard error. Bad input is an error of a line or two and exit status 2.\n"
    ]
    for name, command in sorted(group.commands.items()):
        context = typer.Context(command, info_name=f"fewhertz {name}")
        usage = " ".join(command.collect_usage_pieces(context)).translate(str.maketrans("", "", "{}"))
        parts.append(f"## fewhertz {name}\n\n{command.help}\n\n```text\nfewhertz {name} {usage}\n```\n")
        rows = []
        for param in command.params:
            if param.name == "help":
                continue
            record = param.get_help_record(context)
            if record is None:  # an argument
                record = (param.make_metavar(context), getattr(param, "help", "") or "")
            rows.append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
        if rows:
            parts.append("| | |\n|---|---|\n" + "\n".join(rows) + "\n")
        if command.epilog:
            parts.append("```sh\n" + "\n".join(filter(None, command.epilog.split("\n\n"))) + "\n```\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def api() -> str:
    """Every public name: its signature and docstring, and the public methods of classes."""
    parts = ["# Python\n\nMade from the docstrings by `python docs/reference.py`.\n"]
    for name in fewhertz.__all__:
        thing = getattr(fewhertz, name)
        parts.append(f"## fewhertz.{name}\n\n{_signature(name, thing)}\n\n{_text(thing)}\n")
        if not inspect.isclass(thing):
            continue
        for inner, value in vars(thing).items():
            if inner.startswith("_") or not (inspect.isfunction(value) or isinstance(value, classmethod | property)):
                continue
            if not inspect.getdoc(value):
                continue
            if isinstance(value, property):
                parts.append(f"### {name}.{inner}\n\n{_text(value)}\n")
            else:
                parts.append(f"### {name}.{inner}()\n\n{_signature(inner, getattr(thing, inner))}\n\n{_text(value)}\n")
    return "\n".join(parts)


def _signature(name: str, thing: Any) -> str:
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return f"```python\nclass {name}({thing.__mro__[1].__name__})\n```"
    text = str(inspect.signature(thing))
    for wide, short in (
        (r"fewhertz\.[\w.]*\.(\w+)", r"\1"),
        (r"torch\.nn\.modules\.module\.", "nn."),
        (r"\bcollections\.abc\.", ""),
    ):
        text = re.sub(wide, short, text)
    text = re.sub(r"<function <lambda> at 0x\w+>", "…", text).replace("'", "")
    if len(text) > 88:
        text = re.sub(r", (?=\*|\w+:)", ",\n    ", "(\n    " + text[1:]).replace(") ->", ",\n) ->", 1)
    return f"```python\n{name}{text}\n```"


def _text(thing: Any) -> str:
    """A docstring with its sections as lists and its examples as code."""
    doc = inspect.getdoc(thing) or ""
    out: list[str] = []
    section = ""
    for line in doc.splitlines():
        head = re.fullmatch(r"(\w+):", line)
        if head and head[1] in (*SECTIONS, "Example"):
            section = head[1]
            out += ["", f"**{section}**", ""] if section != "Example" else ["", "**Example**", "", "```python"]
        elif section == "Example":
            if line and not line.startswith(" "):
                out += ["```", "", line]
                section = ""
            elif line.strip():
                out.append(re.sub(r"^\s*(>>>|\.\.\.) ?", "", line))
        elif section:
            entry = re.fullmatch(r"    (\*{0,2}\w[\w`@,. ]*?): (.*)", line)
            if entry:
                out.append(f"- `{entry[1]}`: {entry[2]}")
            elif line.startswith("    "):
                out.append(("  " if out and out[-1].startswith(("- ", "  ")) else "") + line.strip())
            elif line:
                section = ""
                out += ["", line]
        else:
            out.append(line)
    if section == "Example":
        out.append("```")
    return "\n".join(out).strip()


def main() -> None:
    """Write both pages."""
    (DOCS / "cli.md").write_text(cli(), "utf-8")
    (DOCS / "api.md").write_text(api(), "utf-8")


if __name__ == "__main__":
    main()
