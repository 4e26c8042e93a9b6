"""docs/research/training-free.md: a file a section, `page` on top."""
