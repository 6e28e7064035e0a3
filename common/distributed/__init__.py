"""Training with several processes, on one machine or several; who trains with one process need not read it.

The training loop sees one object, from :func:`get_cluster`: `Alone`, which does nothing, or a `Cluster`.
"""
from common.distributed.cluster import Alone, Cluster, get_cluster

__all__ = ['Alone', 'Cluster', 'get_cluster']
