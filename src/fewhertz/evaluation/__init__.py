"""Quality against audio tokens per second: `runner` measures, `results` its files, `curves` and `report` show them."""
