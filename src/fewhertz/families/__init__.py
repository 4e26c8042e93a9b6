"""All families: importing this package registers them. A new family is one file and one line here."""

from fewhertz.families import qwen2_audio as qwen2_audio
