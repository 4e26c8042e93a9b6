"""All families: importing this package registers them. A new family is one file and one line here."""

from fewhertz.families import audio_flamingo_3 as audio_flamingo_3
from fewhertz.families import glm_asr as glm_asr
from fewhertz.families import music_flamingo as music_flamingo
from fewhertz.families import qwen2_5_omni as qwen2_5_omni
from fewhertz.families import qwen2_audio as qwen2_audio
from fewhertz.families import qwen3_asr as qwen3_asr
from fewhertz.families import qwen3_omni as qwen3_omni
from fewhertz.families import voxtral as voxtral
