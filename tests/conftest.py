"""Prepares MXNet as the scripts do, before any test imports it."""
import common  # noqa: F401
