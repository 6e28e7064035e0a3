"""Search in a folder of pictures with a trained network: ``python -m results.search``. Imports no MXNet."""
