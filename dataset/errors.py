"""The one exception type for bad data."""
from __future__ import annotations

from common.errors import UserError


class DatasetError(UserError):
    """Something about the data is wrong: one sentence that names the file, folder or flag and what was expected."""
