"""What the project has measured, and the pages that are made of it: `python -m recipes.research.reproduce`."""
