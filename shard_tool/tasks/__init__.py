"""Functions run over many tasks: here, in local processes, or on a Dask cluster."""
