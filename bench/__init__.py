"""What compression costs and gains, measured: `python -m bench.NAME --out FILE`, and `--help` says how."""
