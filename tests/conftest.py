"""Prepares MXNet as the scripts do, before any test imports it, and Ctrl-C for the tests that send it."""
import signal

import common  # noqa: F401

# Started in the background by a shell, a process ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
