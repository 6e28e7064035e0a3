"""The errors that end a script with one line."""


class UsageError(Exception):
    """A flag, or a combination of flags, that cannot be carried out: exit status 2."""


class TrainingError(Exception):
    """A run that cannot start or go on (diverged, locked, damaged checkpoint): exit status 1."""
