"""Networks: backbones, the embedding net, weights (``models.weights``) and losses (``models.losses``)."""
import common  # noqa: F401  (prepares MXNet)
from models.backbones import backbone_names, get_backbone, is_backbone
from models.embedding import EmbeddingNet, L2Normalization
from models.errors import ModelError

__all__ = ['EmbeddingNet', 'L2Normalization', 'ModelError', 'backbone_names', 'get_backbone', 'is_backbone']
