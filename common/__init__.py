"""What is the same for all twelve algorithms: flags, training loop, evaluation, checkpoints, logs."""
from common.runtime import prepare

prepare()
