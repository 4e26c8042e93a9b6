"""Stage 5: the shipped directory, in the ordinary Hugging Face format, from a checkpoint.

    python -m recipes.pocket.export [--run small] [--out src/fewhertz/pocket]

Files are written beside the target and renamed into place, so that a reader never sees half a model.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoProcessor, GenerationConfig, PreTrainedConfig, PreTrainedModel

from .config import RUNS, SHIPPED, SIZES
from .family import of, of_size, special_ids

MAX_BYTES = 25_000_000
MAX_NEW_TOKENS = 256  # the default of `generate`: more than 30 s of fast speech needs


def load_run(run: Path) -> tuple[PreTrainedModel, object, dict]:
    """Model (float32, evaluation mode), processor and the facts of a run's checkpoint."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    size = state["size"]
    processor = AutoProcessor.from_pretrained(RUNS / size / "processor")
    family = of_size(size)
    model = family.blank(SIZES[size], special_ids(family, processor.tokenizer))
    model.load_state_dict(state["model"])
    facts = {"size": size, "step": state["step"], "spent_s": state["spent"], "heard_s": state["heard"]}
    facts |= {"hardware": state["hardware"], "before": state["before"]}
    return model.eval(), processor, facts


def shipped_config(model: PreTrainedModel) -> PreTrainedConfig:
    config = model.config
    config.architectures = [type(model).__name__]
    # half precision is for the bytes of the package alone: processors compute in it slowly, if at all
    config.dtype = torch.float32
    config.comfortable_seconds = of(model).comfortable_seconds
    return config


def export(run: Path, out: Path) -> int:
    """Write model and processor; returns the bytes of the weights."""
    model, processor, facts = load_run(run)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch)
        processor.save_pretrained(made)
        shipped_config(model).save_pretrained(made)
        end = {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.pad_token_id}
        GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, do_sample=False, **end).save_pretrained(made)
        weights = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, made / "model.safetensors", {"format": "pt", "training": json.dumps(facts)})
        size = (made / "model.safetensors").stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"weights take {size} bytes, more than {MAX_BYTES}")
        for path in sorted(made.iterdir()):
            path.chmod(0o644)
            os.replace(path, out / path.name)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="fourth")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()
    print(f"{args.out}: weights {export(RUNS / args.run, args.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
