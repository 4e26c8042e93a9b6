"""The runs of docs/research/omni.md: a model of the OmniASR class, whose encoder gives 50 audio tokens a second.

    python -m recipes.research.run omni
    python -m recipes.research.train omni      # then `run omni` again measures the adapters

With transformers 5.24. The keeps reach from 25 Hz, where pocket begins, to pocket's third of the tokens.
"""

from __future__ import annotations

from fewhertz.evaluation.runner import specs

from ..tasks import SMALLER, WEIGHTS
from . import BOTH
from .lora import CONTROL, Trial, keep
from .training_free import DIGITS, FAR, STRINGS, priced

NAME = "pocket-omni"
MODEL = WEIGHTS / NAME
BESIDE = SMALLER  # the pocket of its number of parameters and of its LLM's shape
PARAMETERS = "4.9"  # millions: a size of recipes/pocket/config.py
LISTS = (FAR, STRINGS, DIGITS)
METHODS = ("pool", f"pool{BOTH}", f"ward{BOTH}")
KEEPS = ("1/2", "1/3", "1/4", "1/6")
PRICED = priced("0.3")
TAUGHT = (2, 3, 6)  # divisors of what adapters are trained under
TRIALS = [
    CONTROL,
    *(Trial(f"pool-{k}", keep("pool", k)) for k in TAUGHT),
    Trial("ward-told-3", keep(f"ward{BOTH}", 3)),
]


def grid() -> list[str]:
    """The runs of a list without training, as specs, the baseline first."""
    return [*specs(METHODS, KEEPS), PRICED]
