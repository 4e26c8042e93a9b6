"""What time positions and proportional attention cost, what of them is exact, and what `ward` costs and loses.

    python -m bench.corrections --out results/bench/told.json    # 5 minutes of one core; needs out/dev (--manifests)
    python -m bench.corrections --out out/quick.json --quick     # seconds: tiny shapes, for the tests, no figures

1. attention (proportional.py): the ways in which log s can enter attention, against attention without it.
2. layer (layers.py): the same in a Qwen2-Audio-7B of random weights, its method with `+time`, with `+sizes`, with both.
3. depth (copies.py): s copies of a token at one position against one token with log s, layer by layer.
4. cost, objective (ward.py): time over the prefill time that `ward` and `optimal` save, and the distance to its
   segments that `ward` has more.

On a CPU time is the processor's, of one thread: others that run on the machine then count for little. On a GPU it is
the wall clock's. In the rows, `told` says that log s is there, `untold` that it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch.nn.attention.flex_attention import flex_attention

import fewhertz
from bench import prefill
from bench.copies import depth, requests, speech
from bench.layers import layers
from bench.prefill import ON_CPU, WHOLE
from bench.proportional import PART, attention, choices, exactness
from bench.record import environment, progress, save
from bench.shapes import LAYERS, QWEN2_7B, TEXT_7B, TINY_TEXT, layer_of
from bench.ward import OBJECTIVE_BAR, WARD_BAR, cost, objective

EXACT_BAR = 1e-5  # largest difference in float32; at depth relative
OTHER_WAY_BAR = 1.10  # a layer by the additive mask over one by the fastest way: above it another way is worth its code

FULL: dict[str, Any] = {
    "shapes": {"Qwen2-Audio-7B": layer_of(TEXT_7B), "Qwen2-7B": layer_of(QWEN2_7B)},
    "tokens": [290, 790, 2540],  # prompts of 30 s at keep=1/3, of 30 s as they are, of ten times 30 s at keep=1/3
    "batches": {"cpu": [1, 4], "cuda": [1, 4, 16]},
    "most_tokens": {"cpu": 3000, "cuda": 50_000},  # of a batch
    "rounds": {"prefill": 3, "decode": 9},
    "linear_tokens": 145,
    "exact_tokens": 290,
    "clips": {"cpu": [1], "cuda": [1, 10]},
    "layer_rounds": 4,
    "deep": {"layers": 8, "hidden_size": 512, "intermediate_size": 1024, "heads": 8, "audio": 50, "text": 20},
    "depth_keeps": ["1/2", "1/3", "1/6"],
    "speech": 50,
    "keeps": ["1/2", "1/3", "1/4", "1/6", "1/10"],
    "cost": [("Qwen2-Audio-7B", "1/3"), ("Qwen2-Audio-7B", "1/2"), ("Qwen2-7B", "1/3")],
    "cost_batches": [1, 32],
    "cost_tokens": 750,
    "cost_rounds": 2,
}
QUICK: dict[str, Any] = FULL | {
    "shapes": {"Qwen2-Audio-7B": layer_of(TINY_TEXT), "Qwen2-7B": layer_of(TINY_TEXT) | {"num_key_value_heads": 2}},
    "tokens": [30, 300],
    "batches": {"cpu": [1, 2], "cuda": [1, 2]},
    "most_tokens": {"cpu": 400, "cuda": 400},
    "rounds": {"prefill": 2, "decode": 2},
    "linear_tokens": 10,
    "exact_tokens": 300,
    "clips": {"cpu": [1], "cuda": [1]},
    "layer_rounds": 2,
    "deep": {"layers": 3, "hidden_size": 64, "intermediate_size": 64, "heads": 4, "audio": 10, "text": 4},
    "depth_keeps": ["1/3"],
    "speech": 2,
    "keeps": ["1/3"],
    "cost_batches": [1, 2],
    "cost_tokens": 60,
}


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts, by the rows alone."""
    exact = [r for r in result["exact"] if r["told"] and r["dtype"] == "float32" and r["difference"] is not None]
    first = [
        {"where": f"{run['weights']}, {run['tokens']}", "value": run["by_layer"][0]["told"]["largest"]}
        for run in result["depth"]
    ]
    judged = [
        ("every way over copies, float32, largest difference", EXACT_BAR, exact, "difference"),
        ("log s over copies after one layer, largest relative difference", EXACT_BAR, first, "value"),
        ("a layer by the mask over one by the fastest way", OTHER_WAY_BAR, result["choices"], "mask_over_fastest"),
        ("ward over the prefill time that it saves", WARD_BAR, [r for r in result["cost"] if r["bar"]], None),
        (
            "ward's distances over optimal's, all clips together",
            OBJECTIVE_BAR,
            result["objective"],
            "ward_over_optimal",
        ),
    ]
    found = []
    for what, bar, rows, field in judged:
        name = field or "share_of_prefill_saved"
        worst = max(rows, key=lambda row: row[name])
        where = ", ".join(str(worst[k]) for k in ("shape", "phase", "method", "way", "fastest", "where") if k in worst)
        more = ", ".join(f"{k} {worst[k]}" for k in ("tokens", "batch", "keep") if k in worst)
        found.append(
            {
                "what": what,
                "bar": bar,
                "worst": worst[name],
                "where": ", ".join(filter(None, (where, more))),
                "met": worst[name] <= bar,
            }
        )
    return found


def notes(device: str) -> list[str]:
    """How the figures came about."""
    timed = "seconds are the wall clock's" if device == "cuda" else "seconds are the processor's, of one thread"
    return [
        "the machine was shared with other work: what is compared was measured in turns, in rounds, and ratios are "
        f"medians of each round's ratio; {timed}",
        "attention: by the function that transformers' layers call; masks are made before, as once for all layers",
        "plain: causal, without log s; boolean: as in a padded batch, without it; mask: log s in an additive mask, "
        f"the library's way; in parts: {PART} queries at a time, over the keys up to the last of them",
        "dims: log s in 2 of 8 more dimensions of queries and keys, as in fewhertz.vllm.corrections; "
        "widened in the call, or kept wide in the cache, which then is 8/128 larger",
        "flex: FlexAttention with a score_mod, compiled, unless quick",
        "of_layer: attention and the layer's matrices, over the same with plain attention; matrices are timed on their "
        "own, at prefill per token",
        f"over_packed_{LAYERS}_layers: {LAYERS} layers, and once what is done for all of them: compression, masks and "
        "angles; without the vocabulary",
        "depth: float32, all positions after the audio; log probabilities are of the token that is likeliest over "
        "copies",
        "cost: plan and apply on random tokens; the layer is timed on what one clip saves, as a sequence of its own, "
        "which leaves out what those tokens cost the ones that stay",
        "objective: on what pocket's LLM reads of recordings; optimal without a limit, the best of all ways",
    ]


def show(result: dict[str, Any]) -> None:
    """The result as tables."""
    console = Console(width=max(130, Console().width))
    if result["quick"]:
        console.print("quick: tiny shapes, so the times say nothing")

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for i, column in enumerate(columns):
            made.add_column(column, justify="right" if i else "left", no_wrap=True)
        return made

    for phase in ("prefill", "decode"):
        rows = [row for row in result["attention"] if row["phase"] == phase]
        cases = list(dict.fromkeys((row["shape"], row["tokens"], row["batch"]) for row in rows))
        columns = [f"{shape.removeprefix('Qwen2-')}\n{n:,} × {batch}" for shape, n, batch in cases]
        made = table(f"{phase}: attention over plain (a layer over one with plain)", "way", *columns)
        for way in dict.fromkeys(row["way"] for row in rows):
            columns = []
            for case in cases:
                row = next((r for r in rows if (r["shape"], r["tokens"], r["batch"], r["way"]) == (*case, way)), None)
                ran = row is not None and row["of_plain"] is not None
                columns.append(f"{row['of_plain']:.2f} ({row['of_layer']:.2f})" if ran else "–")
            made.add_row(way, *columns)
        console.print(made)
    for text in dict.fromkeys(f"{row['way']}: {row['refused']}" for row in result["attention"] if row["refused"]):
        console.print(f"refused: {text}", highlight=False)
    for text in result["left_out"]:
        console.print(f"left out: {text}", highlight=False)

    made = table(
        "Qwen2-Audio-7B with corrections, over packed", "method", "", "tokens", "layers", f"of {LAYERS} layers"
    )
    for row in result["layer"]:
        ratios = f"{row['layers_over_packed']:.3f}", f"{row[f'over_packed_{LAYERS}_layers']:.3f}"
        made.add_row(row["method"], row["phase"], f"{row['tokens']:,}", *ratios)
    console.print(made)

    made = table(
        "after the audio, against copies",
        "weights, tokens",
        "layer",
        "log s: mean",
        "largest",
        "without: mean",
        "largest",
    )
    for run in result["depth"]:
        for row in run["by_layer"]:
            off = (f"{row[name][of]:.1e}" for name in ("told", "untold") for of in ("mean", "largest"))
            made.add_row(f"{run['weights']}, {run['tokens']}", str(row["layer"]), *off)
    console.print(made)
    made = table("next token, against copies", "weights, tokens", "", "log p: mean", "largest", "KL", "same token")
    for run in result["depth"]:
        for name, row in run["next_token"].items():
            off = f"{row['log_probability_mean']:.2e}", f"{row['log_probability_largest']:.2e}", f"{row['kl_mean']:.1e}"
            made.add_row(f"{run['weights']}, {run['tokens']}", name, *off, f"{row['same_token']:.1%}")
    console.print(made)

    made = table("time over the prefill time saved", "method", "shape", "batch", "share", "bar")
    for row in result["cost"]:
        bar = "–" if row["bar"] is None else f"{row['bar']:.0%}"
        made.add_row(row["method"], row["shape"], str(row["batch"]), f"{row['share_of_prefill_saved']:.3%}", bar)
    console.print(made)
    made = table("squared distance over optimal's", "keep", "ward", "mean of clips", "largest", "within bar", "pool")
    for row in result["objective"]:
        of = (row[f"ward_over_optimal{which}"] for which in ("", "_mean_of_clips", "_largest_of_clips"))
        within = f"{row['clips_within_bar']} of {row['clips']}"
        made.add_row(row["keep"], *(f"{one:.4f}" for one in of), within, f"{row['pool_over_optimal']:.3f}")
    console.print(made)
    for bar in result["bars"]:
        said = "met" if bar["met"] else "[red]missed[/red]"
        console.print(
            f"{bar['what']}: at most {bar['bar']:g}: {said}; worst: {bar['worst']:.4g} ({bar['where']})",
            highlight=False,
        )


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    quick: Annotated[bool, typer.Option(help="Tiny shapes: shows that the bench runs, measures nothing.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    manifests: Annotated[Path, typer.Option(help="Folder of the dev lists.")] = Path("out/dev"),
) -> None:
    """Measure, write the result file, print the tables."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not quick and not (manifests / "strings-dev.jsonl").exists():
        make = "python -m recipes.pocket.manifests --split dev --limit 200 --lists strings synthetic --out out/dev"
        raise typer.BadParameter(f"no dev lists in {manifests}: {make}")
    if device == "cpu":
        torch.set_num_threads(1)  # seconds of the processor are of all threads, and waiting ones count
    size = QUICK if quick else FULL
    shape = prefill.QUICK if quick else WHOLE if device == "cuda" else ON_CPU
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    # one that is not compiled gives the same, slowly; compiling takes longer than a test may
    flex: Callable[..., Any] = (
        flex_attention if quick else torch.compile(flex_attention, dynamic=device == "cpu" or None)
    )
    by_name = quick or device == "cuda"
    torch.manual_seed(0)
    before = environment(device)
    result: dict[str, Any] = {
        "what": "price and exactness of corrections; price and objective of ward",
        "notes": notes(device),
        "quick": quick,
        "configuration": {
            **size,
            "model": shape,
            "device": device,
            "dtype": str(dtype).split(".")[1],
            "clock": "wall" if device == "cuda" else "processor",
            "speech_from": "bundled" if quick else str(manifests),
        },
        "environment": before,
    }
    model, processor = fewhertz.load("pocket", device=device, dtype="float32")
    model.eval()
    asked = requests(processor, speech(None if quick else manifests, size["speech"]), device)
    with torch.inference_mode():
        result["exact"] = list(exactness(size, flex, by_name, like))
        progress("exactness")
        result["objective"] = objective(size, model, asked)
        progress("objective")
        result["depth"] = depth(size, model, asked, device)
        result["attention"], result["left_out"] = attention(size, flex, by_name, device, like)
        result["choices"] = choices(result["attention"])
        result["cost"] = cost(size, device, like)
        result["layer"] = layers(size, shape, device, like)
    result["bars"] = bars(result)
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
