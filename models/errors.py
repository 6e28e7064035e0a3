"""The one exception of this package."""
from common.errors import UserError


class ModelError(UserError):
    """Bad or missing weights, or a network that cannot be had; one sentence that names the file or the flag."""
