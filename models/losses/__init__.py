"""The losses: one module an algorithm, each ``loss(embeddings (B, E), labels (B,)) -> (1,)``."""
from .angular import AngularLoss
from .cluster import ClusterLoss
from .discriminative import DiscriminativeLoss
from .lifted_struct import LiftedStructLoss
from .margin import MarginLoss
from .normproxy import NormProxyLoss
from .npairs import NPairLoss
from .prototypical import PrototypicalLoss
from .proxy import ProxyLoss
from .ranked_list import RankedListLoss
from .triplet_semihard import TripletSemihardLoss

__all__ = [
    'AngularLoss',
    'ClusterLoss',
    'DiscriminativeLoss',
    'LiftedStructLoss',
    'MarginLoss',
    'NPairLoss',
    'NormProxyLoss',
    'PrototypicalLoss',
    'ProxyLoss',
    'RankedListLoss',
    'TripletSemihardLoss',
]
