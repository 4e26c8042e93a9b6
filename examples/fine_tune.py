"""Fine-tune a compressed model with transformers' own Trainer and peft.

    python examples/fine_tune.py clips.jsonl out

`fewhertz train` does this with checkpoints, resume, distillation and several processes; this is the bare way.
"""

import json
import sys
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

import fewhertz
from fewhertz.audio import load

data, out = Path(sys.argv[1]), sys.argv[2]
model, processor = fewhertz.load("pocket", "pool@keep=1/2", dtype="float32")
wrapped = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=r".*language_model.*\.(q|k)_proj"))
wrapped.enable_input_require_grads()
ask = [
    {"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": "Transcribe the speech."}]}
]


def collate(rows: list[dict]) -> dict:
    """Prompts and answers as one batch; labels go with the whole prompt, and are shortened with it."""
    prompt = processor.apply_chat_template(ask, add_generation_prompt=True, tokenize=False)
    waves = [load(data.parent / row["audio"], 16_000) for row in rows]
    texts = [prompt + row["text"] + processor.tokenizer.eos_token for row in rows]
    batch = processor(text=texts, audio=waves, sampling_rate=16_000, padding=True, return_tensors="pt")
    labels = batch["input_ids"].clone()
    for place, row in enumerate(rows):
        answer = len(processor.tokenizer(row["text"] + processor.tokenizer.eos_token)["input_ids"])
        real = batch["attention_mask"][place].nonzero()[-answer:, 0]
        keep = labels[place, real].clone()
        labels[place] = -100
        labels[place, real] = keep
    return dict(batch) | {"labels": labels}


rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
settings = TrainingArguments(
    out, max_steps=8, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=2, report_to=[],
    remove_unused_columns=False, use_cpu=True,
)  # fmt: skip
trainer = Trainer(wrapped, settings, train_dataset=rows, data_collator=collate)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}")
wrapped.save_pretrained(out)
