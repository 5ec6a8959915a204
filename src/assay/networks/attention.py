"""Self-attention over the words of documents beside context vectors, several members at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.networks.mlp import StackedLinear

_SMALLEST = 1e-12


class _Contexts(nn.Module):
    """r vectors of length p for each of S members."""

    def __init__(self, members: int, heads: int, width: int) -> None:
        super().__init__()
        self.fan_in = width
        self.vectors = nn.Parameter(torch.zeros(members, heads, width))


class ContextAttention(nn.Module):
    """S networks of r attention heads over word vectors that they share, and of r context vectors each.

    Head k of a member weighs the words of a document, A_k = softmax over words of w_k tanh(W_1 h), without biases, and
    m_k = A_k H is compared with the context vector c_k by the cosine distance d_k = (1 - cos(m_k, c_k)) / 2 (Ruff 2021,
    eq 3.3 to 3.6). Places behind the last word get no weight. A document without words has m_k = 0, and
    d_k is `nothing`.

    Parameters
    ----------
    members : int
        S.
    words, width : int
        Number of words and length of their vectors, which are fixed.
    units, heads : int
        d_a and r.

    Attributes
    ----------
    words : Tensor, shape (words, width)
    contexts : Module
        Its ``vectors`` have shape (S, heads, width).
    alpha : Tensor, shape (S,)
        The sharpness of the weights of contexts in the loss.
    nothing : Tensor, shape (S,)
        The distance of a document without words from every context; at first 1, the largest one.
    """

    words: Tensor
    alpha: Tensor
    nothing: Tensor

    def __init__(self, members: int, words: int, width: int, units: int, heads: int) -> None:
        super().__init__()
        self.project = StackedLinear(members, width, units, bias=False)
        self.attend = StackedLinear(members, units, heads, bias=False)
        self.contexts = _Contexts(members, heads, width)
        self.register_buffer("words", torch.zeros(words, width))
        self.register_buffer("alpha", torch.zeros(members))
        self.register_buffer("nothing", torch.ones(members))

    def attention(self, places: Tensor) -> Tensor:
        """Return the weights A of the words of documents, shape (S, n, places, heads).

        `places` are numbers of words, shape (S, n, places), -1 where there is none.
        """
        known = places >= 0
        # A word has the same logit wherever it stands: each is computed once.
        used, at = torch.unique(places.clamp(min=0), return_inverse=True)
        of_words = self.attend(torch.tanh(self.project(self.words[used].expand(len(places), -1, -1))))
        logits = torch.stack([table[rows] for table, rows in zip(of_words, at, strict=True)])
        # A document without words has no largest logit: its weights are made 0 afterwards.
        lowest = torch.finfo(logits.dtype).min
        weights = torch.softmax(logits.masked_fill(~known[..., None], lowest), dim=2)
        return weights * known[..., None]

    def vectors_of(self, places: Tensor) -> Tensor:
        """Return the vectors of words by their numbers, shape (..., width); for -1 those of any word."""
        return self.words[places.clamp(min=0)]

    def embed(self, places: Tensor, weights: Tensor) -> Tensor:
        """Return the documents as seen by each head, m_k, shape (S, n, heads, width)."""
        return weights.transpose(2, 3) @ self.vectors_of(places)

    def distances(self, embedded: Tensor) -> Tensor:
        """Return the distances d_k of embedded documents from the contexts, shape (S, n, heads)."""
        contexts = self.contexts.vectors[:, None]
        norms = torch.linalg.vector_norm(embedded, dim=3) * torch.linalg.vector_norm(contexts, dim=3)
        cosines = (embedded * contexts).sum(dim=3) / norms.clamp(min=_SMALLEST)
        return torch.where(norms > 0, (1 - cosines) / 2, self.nothing[:, None, None])

    def forward(self, places: Tensor) -> Tensor:
        """Return the distances of documents from the contexts, shape (S, n, heads)."""
        return self.distances(self.embed(places, self.attention(places)))

    def overlap(self) -> Tensor:
        """Return ||C C' - I||^2, the sum of squares, of each member, shape (S,) (eq 3.10)."""
        vectors = self.contexts.vectors
        excess = vectors @ vectors.transpose(1, 2) - torch.eye(vectors.shape[1]).to(vectors)
        return excess.square().sum(dim=(1, 2))

    def losses(self, places: Tensor, weight: float) -> Tensor:
        """Return the loss of each document, shape (S, n): sum_k sigma_k d_k + weight ||C C' - I||^2 (eq 3.9, 3.11).

        sigma is the softmax over contexts of -alpha d (eq 3.8).
        """
        distances = self(places)
        sigma = torch.softmax(-self.alpha[:, None, None] * distances, dim=2)
        loss: Tensor = (sigma * distances).sum(dim=2) + weight * self.overlap()[:, None]
        return loss


def without_padding(places: Tensor) -> Tensor:
    """Return numbers of words (..., places) without the last places that no document has; at least one is left."""
    longest = int((places >= 0).sum(dim=-1).max()) if places.numel() else 0
    return places[..., : max(1, longest)]
