"""What is the same for all twelve algorithms: flags, training loop, evaluation, checkpoints, logs.

From here on MXNet is prepared when it is first imported (`common.runtime`); nothing heavy is imported here.
"""
from common.runtime import watch

watch()
