"""The values of single elements, |theta|, written where the sparse weight will be."""

import math

import torch
from torch import Tensor

from spartan_planner.errors import TransportError
from spartan_planner.transport.passes import chunk_bounds, chunk_size


def take_magnitudes(weight: Tensor, aside: Tensor) -> Tensor:
    """Copy a weight aside, put |theta| in its place, and return the least and the greatest.

    One pass over the weight.

    Args:
        weight: theta, contiguous; |theta| afterwards.
        aside: Contiguous, of the same number of elements and dtype; theta afterwards.

    Returns:
        Least and greatest |theta|, [2], in the dtype of the weight; NaN where any element is, and
        inf and -inf of no elements.

    Raises:
        TransportError: Tensors that differ, or are not contiguous.
    """
    fits = weight.numel() == aside.numel() and weight.dtype == aside.dtype
    if not (fits and weight.is_contiguous() and aside.is_contiguous()):
        raise TransportError(
            f"A weight is copied aside to a tensor of its size and dtype, both contiguous; got "
            f"{tuple(weight.shape)} of {weight.dtype} and {tuple(aside.shape)} of {aside.dtype}."
        )
    flat, kept = weight.detach().view(-1), aside.view(-1)
    ends = [flat.new_tensor([math.inf, -math.inf])]
    for start, stop in chunk_bounds(flat.numel(), chunk_size(flat.device) // 2):
        part = flat[start:stop]
        kept[start:stop].copy_(part)
        torch.abs(part, out=part)
        ends.append(torch.stack([part.amin(), part.amax()]))
    both = torch.stack(ends)
    return torch.stack([both[:, 0].amin(), both[:, 1].amax()])
