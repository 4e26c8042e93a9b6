"""CoVoST 2: speech translation."""

from dataclasses import dataclass, replace
from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, WITHOUT_SPACES, Bleu, Metric
from fewhertz.tasks.base import Row, Sample, Task, column, sound, text


def language_name(code: str) -> str:
    """`"German"` of `"de"`, `"de_de"` or `"de-DE"`.

    Raises:
        ValueError: for a code that is no language's.
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    base = code.replace("_", "-").lower().split("-")[0]
    name = LANGUAGES.get({"cmn": "zh"}.get(base, base))
    if name is None:
        raise ValueError(f"no language has the code {code!r}")
    return name.title()


def translation_metrics(target: str) -> list[Metric]:
    """BLEU and chrF; for languages without spaces BLEU of characters, as CoVoST 2 has it (arXiv 2007.10310)."""
    base = {"cmn": "zh"}.get(code := target.replace("_", "-").lower().split("-")[0], code)
    return [replace(Bleu(), tokenize="char") if base in WITHOUT_SPACES else METRICS["bleu"], METRICS["chrf"]]


@dataclass(frozen=True, kw_only=True)
class Covost2(Task, name="covost2"):
    """CoVoST 2 (Wang et al., arXiv 2007.10310): translation of read speech. BLEU and chrF by sacrebleu.

    A subset is a pair such as `fr_en` or `en_zh-CN`. Intervals draw speakers.
    """

    citation = "Wang et al., CoVoST 2 and massively multilingual speech-to-text translation, arXiv 2007.10310"
    hub = "facebook/covost2"
    own_subset = "fr_en"

    @property
    def _target(self) -> str:
        return (self.subset or self.own_subset or "").partition("_")[2]

    @property
    def prompt(self) -> str | None:
        return self.ask or f"Translate the speech into {language_name(self._target)}."

    def metrics(self) -> list[Metric]:
        return translation_metrics(self._target)

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        return Sample(
            index,
            str(column(row, "id", "file", "path")),
            sound(column(row, "audio", "file", "path"), base),
            [text(row, "translation")],
            prompt=self.prompt,
            group=row.get("client_id"),
        )
