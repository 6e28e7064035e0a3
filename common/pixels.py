"""``python -m common.pixels``: what the raw pixels of a dataset retrieve (see `common.evaluation.pixels`)."""
from common.evaluation.pixels import command

if __name__ == '__main__':
    command()
