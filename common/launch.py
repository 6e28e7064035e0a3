"""``python -m common.launch``: trains with several processes (see `common.distributed.launch`)."""
import sys

from common.distributed.launch import main

if __name__ == '__main__':
    sys.exit(main())
