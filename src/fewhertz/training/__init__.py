"""LoRA recovery: an adapter that teaches the LLM to live with fewer audio tokens. `loop` trains, `data` feeds it."""

from fewhertz.training.loop import Stopped as Stopped
from fewhertz.training.loop import Trained as Trained
from fewhertz.training.loop import train as train
from fewhertz.training.settings import Settings as Settings
from fewhertz.training.settings import keep_range as keep_range
