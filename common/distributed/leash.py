"""Runs one process of a cluster for `common.launch`: ``python common/distributed/leash.py [SCRIPT ARGUMENT ...]``.

Standard input is a pipe, or an ssh connection, of which only the launcher holds the other end. Whatever ends the
launcher, the pipe closes, and then this process ends. If the network fails, another machine may not notice. There the
launcher writes a byte into the pipe every few seconds, and this process ends after ``DML_SILENCE`` seconds without one.
Without a SCRIPT this is the parameter server or its scheduler.

The process ends with `os._exit`: MXNet would wait for all other processes, which may be waiting for this one.
"""
import os
import runpy
import select
import sys
import threading
import traceback


def _end_with_the_launcher() -> None:
    silence = float(os.environ['DML_SILENCE']) if 'DML_SILENCE' in os.environ else None
    while select.select([0], [], [], silence)[0] and os.read(0, 4096):
        pass
    os._exit(1)


def _run() -> int:
    try:
        if sys.argv[0]:
            runpy.run_path(sys.argv[0], run_name='__main__')
        else:
            prepare()   # as its environment says, MXNet's import runs the server and does not return
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == '__main__':
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.argv = sys.argv[1:] or ['']
    sys.path[0] = here
    from common.runtime import prepare  # also prepares MXNet for the script
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv[0] else here
    status = _run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)
