"""Compress a model in your own code: text, and what the call did.

python examples/compress.py talk.flac
python examples/compress.py talk.flac Qwen/Qwen2-Audio-7B-Instruct "ward@tolerance=0.3+time+sizes"
"""

import sys

import fewhertz
from fewhertz.audio import load

file = sys.argv[1]
name = sys.argv[2] if len(sys.argv) > 2 else "pocket"
spec = sys.argv[3] if len(sys.argv) > 3 else "ward@keep=1/2+time+sizes"

model, processor = fewhertz.load(name)  # or any model of transformers that you have loaded yourself
chat = [
    {"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": "Transcribe the speech."}]}
]
prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
wave = load(file, 16_000)
inputs = processor(text=prompt, audio=wave, sampling_rate=16_000, return_tensors="pt").to(model.device, model.dtype)

for method in ("none", spec):
    with fewhertz.compress(model, method) as handle:
        out = model.generate(**inputs, max_new_tokens=100, do_sample=False)
    text = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    print(f"{method}: {text}\n  {handle.last}")
