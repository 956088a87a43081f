"""A small vision transformer, a student of D3's cross-architecture table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("layer", "none")
SPLIT = 4  # patches a side


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with GELU; tokens [n, t, dim]."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = _norm(norm, dim), _norm(norm, dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, t, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        # written out: a handful of tokens, and the products are counted as FLOPs whatever the backend
        weights = (q @ k.transpose(-1, -2) * (dim // self.heads) ** -0.5).softmax(-1)
        x = x + self.drop(self.proj((weights @ v).transpose(1, 2).reshape(n, t, dim)))
        hidden = self.drop(F.gelu(self.fc1(self.norm2(x))))
        out: Tensor = x + self.drop(self.fc2(hidden))
        return out


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., 2021) of 16 patches and a class token.

    Pictures are cut into 4 x 4 patches whatever their size: patches of 16 pixels at 64 pixels, as in D3 (Qin et al.,
    arXiv 2403.00999), 8 at 32, 7 at 28. Input [n, 3, S, S] with S divisible by 4; logits [n, num_classes] of the class
    token. ``norm`` "layer": before each half of a block and before the head; "none": nowhere, as in D3's program.
    Position and class embeddings start at 0.02 times a normal; with norm "none" at a normal, as there.

    Args:
        num_classes: outputs.
        input_size: S.
        dim: of a token; a multiple of ``heads``.
        depth: blocks.
        heads: of the attention.
        hidden: of the perceptron; None for ``dim``.
        dropout: after embedding, attention and both layers of the perceptron.
        norm: "layer" or "none".

    Raises:
        ValueError: sizes that do not divide, or an unknown norm.
    """

    def __init__(
        self, num_classes: int = 10, input_size: int = 64, dim: int = 512, depth: int = 10, heads: int = 8,
        hidden: int | None = None, dropout: float = 0.1, norm: str = "layer",
    ) -> None:  # fmt: skip
        super().__init__()
        if input_size < SPLIT or input_size % SPLIT:
            raise ValueError(f"input_size: got {input_size} for ViT, expected a multiple of {SPLIT}")
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"dim: got {dim} for {heads} heads, expected a positive multiple")
        self.patch = input_size // SPLIT
        self.embed = nn.Linear(3 * self.patch**2, dim)
        scale = 0.02 if norm == "layer" else 1.0
        self.token = nn.Parameter(scale * torch.randn(1, 1, dim))
        self.position = nn.Parameter(scale * torch.randn(1, SPLIT**2 + 1, dim))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden or dim, dropout, norm) for _ in range(depth))
        self.norm = _norm(norm, dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)  # [n, 16, 3 * patch ** 2]
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.embed(patches)], 1)
        tokens = self.drop(tokens + self.position)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return logits


def _norm(kind: str, dim: int) -> nn.Module:
    if kind not in NORMS:
        raise ValueError(f"norm: got {kind!r}, expected one of {', '.join(NORMS)}")
    return nn.LayerNorm(dim) if kind == "layer" else nn.Identity()
