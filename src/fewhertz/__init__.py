"""fewhertz: fewer audio tokens per second, the same answer."""

from fewhertz.attach import Attached, attached, compress
from fewhertz.method import Chain, Clip, Method, parse
from fewhertz.plan import Plan

__version__ = "0.1.0"
__all__ = ["Attached", "Chain", "Clip", "Method", "Plan", "attached", "compress", "parse"]
