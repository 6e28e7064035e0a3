import sys

from common.selfcheck.command import command

if __name__ == '__main__':
    sys.exit(command())
