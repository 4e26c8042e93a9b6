"""docs/research/claims.md: a file for each kind of claim, `page` on top."""
