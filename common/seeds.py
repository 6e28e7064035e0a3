"""Seeds: one number for each purpose, all made from the seed of the run."""
from __future__ import annotations

import random

import mxnet as mx
import numpy as np


def derived_seed(*parts: int) -> int:
    """A seed for one purpose, made from the run's seed and what tells the purpose apart."""
    return int(np.random.SeedSequence([int(part) for part in parts]).generate_state(1)[0] & 0x7fffffff)


def seed_everything(*parts: int) -> None:
    """Seeds every global generator."""
    seed = derived_seed(*parts)
    mx.random.seed(seed)
    np.random.seed(seed)
    random.seed(seed)
