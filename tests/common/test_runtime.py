"""What `import common` settles for the process."""
import json
import os
import subprocess
import sys

import pytest

from common.runtime import available_cores

THREADS = '''
import common, mxnet
import json, os, sys
from threadpoolctl import threadpool_info
mxnet_root = os.path.dirname(sys.modules['mxnet'].__file__)
blas = {os.path.realpath(i['filepath']): i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas'}
print(json.dumps([[n for path, n in blas.items() if path.startswith(mxnet_root)],
                  [n for path, n in blas.items() if 'numpy' in path]]))
'''


@pytest.mark.skipif(available_cores() < 2, reason='there is one core only')
@pytest.mark.parametrize('asked, mxnets, numpys', [({'OMP_NUM_THREADS': '2'}, 2, 1), ({'OMP_NUM_THREADS': '1'}, 1, 1),
                                                   ({'OMP_NUM_THREADS': '2', 'OPENBLAS_NUM_THREADS': '2'}, 2, 2)])
def test_threads_of_mxnet_and_numpy(asked, mxnets, numpys):
    environment = {k: v for k, v in os.environ.items() if k not in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}
    done = subprocess.run([sys.executable, '-c', THREADS], env={**environment, **asked}, capture_output=True, text=True,
                          check=True)
    of_mxnet, of_numpy = json.loads(done.stdout)
    assert set(of_mxnet) <= {mxnets}  # not every build of MXNet has a library of its own for that
    assert of_numpy == [numpys]
