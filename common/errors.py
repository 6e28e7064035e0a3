"""The errors that end a script with one line."""
import re


class UsageError(Exception):
    """A flag, or a combination of flags, that cannot be carried out: exit status 2."""


class TrainingError(Exception):
    """A run that cannot start or go on (diverged, locked, damaged checkpoint): exit status 1."""


def out_of_memory(error: Exception) -> bool:
    """Is this how Python or MXNet, on whatever device, say that there was no memory left?"""
    said = re.search('(?i)out of memory|failed to allocate|bad_alloc', str(error))
    return isinstance(error, MemoryError) or said is not None
