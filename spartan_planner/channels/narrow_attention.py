"""Multi-head attention that is narrower inside than outside, as it is once heads are removed."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class NarrowAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with fewer heads than its embedding has room for.

    Same parameters by the same names, same calls; ``head_dim`` stays, ``num_heads * head_dim`` is
    less than ``embed_dim``.  Only self-attention with packed weights can be narrowed.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as ``nn.MultiheadAttention`` does; its arguments, its results."""
        projected = self._projected(query, key, value)
        queries, keys, values = (self._heads(item) for item in projected)
        mask = _joint_mask(queries, keys, key_padding_mask, attn_mask, is_causal)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            attended, shares = _with_weights(queries, keys, values, mask, dropout)
        else:
            shares = None
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, mask, dropout_p=dropout
            )
        output = self.out_proj(self._together(attended, query.dim()))
        if shares is not None and average_attn_weights:
            shares = shares.mean(1)
        return output, shares if shares is None or query.dim() == 3 else shares[0]

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """In one product where all three are the same, as exports lower the packed weight whole."""
        if query is key and key is value:
            return functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        packed = (self.in_proj_weight, self.in_proj_bias)
        weights, biases = (None if item is None else item.chunk(3) for item in packed)
        return tuple(
            functional.linear(item, weights[at], biases[at] if biases else None)
            for at, item in enumerate((query, key, value))
        )

    def _heads(self, projected: Tensor) -> Tensor:
        """Any order of the module to ``[batch, heads, tokens, head_dim]``."""
        if projected.dim() == 2:
            projected = projected.unsqueeze(0)
        elif not self.batch_first:
            projected = projected.transpose(0, 1)
        sizes = (*projected.shape[:2], self.num_heads, self.head_dim)
        return projected.reshape(sizes).transpose(1, 2)

    def _together(self, attended: Tensor, num_dims: int) -> Tensor:
        joined = attended.transpose(1, 2).flatten(2)
        if num_dims == 2:
            return joined[0]
        return joined if self.batch_first else joined.transpose(0, 1)


def _joint_mask(
    queries: Tensor, keys: Tensor, padding: Tensor | None, mask: Tensor | None, is_causal: bool
) -> Tensor | None:
    """One additive mask that broadcasts to ``[batch, heads, tokens, tokens]``."""
    if is_causal and mask is None:
        size = (queries.shape[2], keys.shape[2])
        mask = torch.ones(size, dtype=torch.bool, device=queries.device).triu(1)
    total: Tensor | None = None
    for item in (mask, None if padding is None else padding.reshape(-1, 1, 1, keys.shape[2])):
        if item is not None:
            added = _additive(item, queries)
            added = (
                added.reshape(queries.shape[0], -1, *added.shape[1:]) if added.dim() == 3 else added
            )
            total = added if total is None else total + added
    return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def _with_weights(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    scores = queries @ keys.mT * queries.shape[-1] ** -0.5
    shares = (scores if mask is None else scores + mask).softmax(-1)
    shares = functional.dropout(shares, dropout)
    return shares @ values, shares
