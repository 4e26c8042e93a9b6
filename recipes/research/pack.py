"""Pack the run files that `fewhertz eval` writes into the few that the project commits, and unpack them again.

    python -m recipes.research.pack unpack results out/runs    # a run file of each; one that is there stays
    python -m recipes.research.pack pack out/runs results      # its run files, beside what is packed there

`make claims` and the like do the first, measure what is missing in out/runs, and do the second. A run whose file is
there replaces the packed one of its name. Each run is noted with the commit that it is packed from, so `src` must have
no change that is not committed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from fewhertz.evaluation import results
from fewhertz.files import Record, replace

from .packed import ENDING, SUMMARY, TRAININGS, Stored, base, file_of, unpack
from .packed import pack as columns

REPO = Path(__file__).resolve().parents[2]


def pack(source: Path, out: Path, commit: Callable[[Path], str]) -> int:
    """Pack the run files below a folder; returns how many.

    Args:
        source: folder of loose results, of one part or of several.
        out: folder of packed ones. What is packed there and not in `source` stays.
        commit: of a result file that is not packed yet in this form.

    Raises:
        ValueError: where a result is damaged, or `commit` refuses; nothing is written of its model and part.
    """
    packed: dict[Path, list[tuple[Path, Record]]] = defaultdict(list)
    folders = set()
    for beside in sorted(source.rglob("*.samples.jsonl.gz")):
        file = beside.with_name(beside.name.removesuffix(".samples.jsonl.gz") + ".json")
        result, folder = results.read(file), file.parents[2]
        folders.add(folder)
        packed[file_of(out / folder.relative_to(source), base(result))].append((file, result))
    for target, several in packed.items():
        old = _by_name(target) if target.exists() else {}
        runs = {name: (one.commit, one.record, one.samples()) for name, one in old.items()}
        for file, result in several:
            name = result["task"], result["model"], result["method"]
            same = name in old and old[name].record == {k: v for k, v in result.items() if k != "samples"}
            runs[name] = (old[name].commit if same else commit(file), result, results.read_samples(file))
        replace(target, columns(list(runs.values())))
    for folder in sorted(folders):
        _pack_trainings(folder, out / folder.relative_to(source) / TRAININGS)
    summarise(out)
    return sum(map(len, packed.values()))


def _by_name(file: Path) -> dict[tuple[str, ...], Stored]:
    """The runs of a packed file, by task, model and spec."""
    return {(task, *name): one for task, runs in unpack(file).items() for name, one in runs.items()}


def _pack_trainings(folder: Path, target: Path) -> None:
    lines = target.read_text("utf-8").splitlines() if target.exists() else []
    notes = {one["name"]: one["record"] for one in map(json.loads, lines)}
    notes |= {file.stem: json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")}
    if notes:
        text = "".join(json.dumps({"name": name, "record": notes[name]}) + "\n" for name in sorted(notes))
        replace(target, text.encode())


def summarise(root: Path) -> None:
    """Write the list of all packed runs, a line each."""
    lines = []
    for file in sorted(root.rglob(f"*{ENDING}")):
        for one in _by_name(file).values():
            result, part = one.record, file.parent.relative_to(root)
            line = {
                "spec": result["method"],
                "task": result["task"],
                "model": result["model"],
                "part": "" if part == Path() else part.as_posix(),
                "n": result["n"],
                "hz": result["rate_hz"]["after"],
                "scores": {name: _score(score) for name, score in result["scores"].items()},
                "date": result["date"][:10],
                "commit": one.commit,
            }
            lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
    replace(root / SUMMARY, "".join(lines).encode())


def _score(score: Record) -> Record:
    """A score as it is, and the rest to three places."""
    return {"score": score["score"]} | {
        key: _rounded(score[key]) for key in ("interval", "difference", "difference_interval")
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def unpack_all(root: Path, out: Path) -> int:
    """Write the run files of all that is packed, but those that are there; returns how many."""
    count = 0
    for file in sorted(root.rglob(f"*{ENDING}")):
        folder = out / file.parent.relative_to(root)
        for one in _by_name(file).values():
            place = results.run_files(folder, one.record["task"], one.record["model"], one.record["method"])
            if not place.file.exists():
                results.write(place, one.record, one.samples())
                count += 1
    for file in sorted(root.rglob(TRAININGS)):
        for note in map(json.loads, file.read_text("utf-8").splitlines()):
            loose = out / file.parent.relative_to(root) / f"{note['name']}.json"
            if not loose.exists():
                replace(loose, (json.dumps(note["record"], indent=1) + "\n").encode())
    return count


def head(_: Path) -> str:
    """The commit of the working tree.

    Raises:
        ValueError: where `src` has changes that are not in it.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(REPO), *words], capture_output=True, text=True, check=True).stdout

    if git("status", "--porcelain", "--", "src"):
        raise ValueError("src has changes that are not committed: commit them, so that a run can say what made it")
    return git("rev-parse", "HEAD").strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        count = pack(args.source, args.out, head) if args.job == "pack" else unpack_all(args.source, args.out)
    except ValueError as error:
        parser.error(str(error))
    print(f"{count} runs {args.job}ed into {args.out}")


if __name__ == "__main__":
    main()
