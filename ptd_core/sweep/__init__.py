"""Many runs with one command, each one task of Dask: `python -m ptd_core.sweep`. Plans are read without it."""
