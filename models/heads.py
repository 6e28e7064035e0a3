"""Heads of :class:`models.EmbeddingNet` that are more than a dense layer. None scales to unit length: the net does."""
from __future__ import annotations

from typing import Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, nn


#: Magnitude of the last layer's first weights (Xavier), as published.
INIT_SCALE = 0.2


def last_layer(units: int, init_scale: float, use_bias: bool = True, in_units: int = 0) -> nn.Dense:
    """The dense layer that gives the embedding; its first weights are Xavier's, of magnitude `init_scale`."""
    return nn.Dense(units, use_bias=use_bias, in_units=in_units,
                    weight_initializer=mx.init.Xavier(magnitude=init_scale))


class NormProxyHead(HybridBlock):
    """Layer normalisation, dropout and a dense layer, as for the normalised softmax (arXiv:1811.12649).

    The features are normalised without affine parameters and the dense layer has no bias (as in the authors' code), so
    that the embedding's entries are spread around 0, where they are thresholded to make binary embeddings. Dropout acts
    on the features, not on the embedding, whose length is normalised next.

    Parameters
    ----------
    embed_dim : int
        E; unused without the dense layer.
    dropout : float
        Share of the features that is dropped in training; 0 for none.
    fc : bool
        False leaves the dense layer out: the embedding is the normalised features.
    init_scale : float
        Of the dense layer, see :func:`last_layer`.

    Inputs:
        - **features**: (B, F)

    Outputs:
        - **embeddings**: (B, E), or (B, F) without the dense layer
    """

    def __init__(self, embed_dim: int, dropout: float = 0.5, fc: bool = True, init_scale: float = INIT_SCALE,
                 **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.norm = nn.LayerNorm(center=False, scale=False)
            self.dropout = nn.Dropout(dropout)
            self.fc = last_layer(embed_dim, init_scale, use_bias=False) if fc else None

    def hybrid_forward(self, F, features):
        x = self.dropout(self.norm(features))
        return x if self.fc is None else self.fc(x)


class BottleneckHead(HybridBlock):
    """Dense layers with ReLU between the features and the embedding.

    Parameters
    ----------
    layers : sequence of int
        Sizes of the layers before the last, e.g. (512, 256).
    embed_dim : int
        E.
    init_scale : float
        Of the last layer, see :func:`last_layer`. The others start with He's weights.

    Inputs:
        - **features**: (B, F)

    Outputs:
        - **embeddings**: (B, E)
    """

    def __init__(self, layers: Sequence[int], embed_dim: int, init_scale: float = INIT_SCALE, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.layers = nn.HybridSequential()
            for units in layers:
                self.layers.add(nn.Dense(units, activation='relu', weight_initializer=mx.init.Xavier(magnitude=2)))
            self.layers.add(last_layer(embed_dim, init_scale))

    def hybrid_forward(self, F, features):
        return self.layers(features)


class DiscriminativeHead(HybridBlock):
    """Embedding, dropout, and the output in R^C that the discriminative loss compares with one-hot centroids.

    Both can be evaluated: ``head.embedding(features)`` gives the first, ``head.output(embedding)`` the second.

    Parameters
    ----------
    embed_dim : int
        E.
    num_classes : int
        C.
    dropout : float
        Share of the embedding that is dropped in training.
    init_scale : float
        Of both dense layers, see :func:`last_layer`.

    Inputs:
        - **features**: (B, F)

    Outputs:
        - **output**: (B, C)
    """

    def __init__(self, embed_dim: int, num_classes: int, dropout: float = 0.5, init_scale: float = INIT_SCALE,
                 **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.embedding = last_layer(embed_dim, init_scale)
            self.dropout = nn.Dropout(dropout)
            self.output = last_layer(num_classes, init_scale)

    def hybrid_forward(self, F, features):
        return self.output(self.dropout(self.embedding(features)))
