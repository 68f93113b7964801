"""Many runs with one command, each one task of Dask: `python -m ptd_core.sweep`."""

from importlib.util import find_spec

if find_spec("distributed") is None:
    raise ModuleNotFoundError("sweeps need Dask, the extra `sweep`: pip install -e '.[sweep]'", name="distributed")
