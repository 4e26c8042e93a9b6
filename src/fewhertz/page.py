"""What our pages have in common: their frame; they need no network, and run no script but their own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any


def fill(template: str, values: dict[str, str]) -> str:
    """A template with each `$name` replaced, all at once: what a value holds of `$` stays."""
    return re.sub(rf"\$({'|'.join(values)})\b", lambda match: values[match[1]], template)


def document(title: str, style: str, script: str, body: str) -> str:
    """A page as one text. What damaged text holds of half characters is replaced, as in any page.

    Args:
        title: of the page, as text.
        style: CSS beside what all pages share.
        script: JavaScript.
        body: HTML.
    """
    template = resources.files("fewhertz").joinpath("page.html").read_text("utf-8")
    page = fill(template, {"title": html.escape(title), "style": style, "script": script, "body": body})
    page = page.encode("utf-8", "replace").decode()
    return page.replace("$policy", policy(page), 1)


def policy(page: str) -> str:
    """The content security policy of a page: its one `<style>` and its one `<script>` by hash, and nothing else."""
    kinds = "; ".join(f"{tag}-src {_hash(page, tag)}" for tag in ("style", "script"))
    return f"default-src 'none'; {kinds}; base-uri 'none'; form-action 'none'"


def _hash(page: str, tag: str) -> str:
    content = page.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def packed(data: Any) -> str:
    """Data as JSON to stand inside a `<script type="application/json">`: a tag cannot begin inside."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
