"""The one exception of this package."""


class ModelError(Exception):
    """Bad or missing weights, or a network that cannot be had; one sentence that names the file or the flag."""
