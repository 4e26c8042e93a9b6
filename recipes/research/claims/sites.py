"""Where a method acts: before the projector or after it."""

from __future__ import annotations

from ..grids.claims import ENCODER_KEEPS, SITES
from ..measured import Measured, versus
from ..tables import Claim, tally, verdict
from ..tasks import TASKS


def sites(measured: Measured) -> Claim:
    parts, every = [], []
    for method in SITES:
        body, gains = versus(measured, TASKS, ENCODER_KEEPS, f"{method}(site=encoder)", method)
        parts.append(f"`{method}`: gain of the encoder's site over the LLM's.\n\n{body}")
        every += gains
    return Claim(
        "Merging before the projector (encoder site) is better than after it (LLM site)",
        "a question left open by the papers",
        tally(every),
        verdict(every),
        "\n\n".join(parts)
        + "\n\nFor `pool` on Qwen2-Audio's class the two are the same up to rounding: its projector is "
        "linear, and a mean commutes with it.",
    )
