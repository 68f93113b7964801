"""Side-by-side measurements in one run: `python -m ptd_core.bench`."""
