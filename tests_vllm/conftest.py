"""What the tests under vLLM share. They run in .venv-vllm: make test-vllm."""

import os
import sys
from pathlib import Path

# the engine in this process: it starts in seconds, and its logs and errors are here. Before vLLM is imported
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # tiny.py
