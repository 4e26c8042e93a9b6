"""Everything that a machine without network needs to make pocket, in folders of 60 MB: data, synthesisers, wheels.

    python -m recipes.pocket.pack                    # here, where there is a network: recipes/pocket/pack/1, 2, …
    bash recipes/pocket/device.sh pack               # there, once for each folder that arrives
    bash recipes/pocket/device.sh prepare            # there: speech is synthesised on the machine
    bash recipes/pocket/device.sh train 8            # there, again and again: eight more minutes each time
    bash recipes/pocket/device.sh export $OUT        # there: the model and what it gives on dev

A device machine takes 64 MiB at a time and keeps what was built between commands, so each folder travels alone. Wheels
are for its Python; torch and transformers are taken to be there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import config
from .config import HERE

WHEELS = ("soundfile", "soxr", "cffi", "espeakng-loader", "jiwer", "rapidfuzz", "sacrebleu", "portalocker", "tabulate",
          "colorama", "lxml", "regex", "jaxtyping", "wadler-lindig", "rich", "typer")  # fmt: skip
TARS = ("speech_commands", "speechocean762", "commonvoice-en", "librispeech", "ljspeech", "kerstin",
        "esc10", "picovoice-barista")  # fmt: skip


def synthesisers(out: Path) -> None:
    """The `flite` command with the libraries that it loads, behind a script that finds them."""
    program = shutil.which("flite")
    if program is None:
        raise RuntimeError("flite is missing: apt install flite")
    libraries = out / "flite" / "lib"
    libraries.mkdir(parents=True)
    shutil.copy(program, out / "flite" / "flite.bin")
    for line in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.splitlines():
        name, _, target = line.strip().partition(" => ")
        if target and name.startswith(("libflite", "libasound")):
            shutil.copy(target.split(" ")[0], libraries / name)
    start = out / "flite" / "flite"
    start.write_text('#!/bin/sh\nhere=$(dirname "$0")\nLD_LIBRARY_PATH="$here/lib" exec "$here/flite.bin" "$@"\n')
    start.chmod(0o755)


def wheels(out: Path, python: str) -> None:
    constraints = config.REPO / "constraints.txt"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", out / "wheels", "-c", constraints]
    target = ["--only-binary=:all:", "--python-version", python]
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (17, 28)] + ["--platform=manylinux2014_x86_64"]
    subprocess.run([*map(str, command), *target, *platforms, *WHEELS], check=True)


def pieces(files: list[Path], limit: int) -> list[list[Path]]:
    """Files in groups of at most `limit` bytes, the large ones first, each into the first group with room."""
    groups: list[list[Path]] = []
    for file in sorted(files, key=lambda f: -f.stat().st_size):
        size = file.stat().st_size
        if size > limit:
            raise ValueError(f"{file.name} alone has {size / 1e6:.0f} MB, more than the limit")
        room = (g for g in groups if sum(f.stat().st_size for f in g) + size <= limit)
        group = next(room, None)
        if group is None:
            groups.append([file])
        else:
            group.append(file)
    return groups


def pack(data: Path, out: Path, python: str, limit: int) -> list[Path]:
    """Write the folders; returns them."""
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        synthesisers(made)
        wheels(made, python)
        for name in TARS:
            shutil.copy(data / f"{name}.tar", made)
        shutil.copy(data / "manifest.jsonl", made)
        (made / "text").mkdir()
        shutil.copy(data / "text" / "tatoeba_en_de.tsv", made / "text")
        found = pieces([p for p in made.rglob("*") if p.is_file()], limit)
        for i, group in enumerate(found, 1):
            for file in group:
                target = out / str(i) / file.relative_to(made)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, target)
    return [out / str(i) for i in range(1, len(found) + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--out", type=Path, default=HERE / "pack")
    parser.add_argument("--python", default="3.12", help="version on the machine that the wheels are for")
    parser.add_argument("--limit", type=float, default=60.0, help="MB a folder")
    args = parser.parse_args()
    for folder in pack(args.data, args.out, args.python, int(args.limit * 1e6)):
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(f"{folder.relative_to(Path.cwd())}: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
