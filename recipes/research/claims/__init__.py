"""docs/research/claims.md: claims without training, and on adapters; `page` on top."""
