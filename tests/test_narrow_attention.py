"""Attention with fewer heads than its embedding has room for, against torch's own."""

import copy
import itertools

import pytest
import torch
from torch import nn

from spartan_planner.channels import channel_groups, mask_channels, remove_channels
from spartan_planner.channels.removal import narrow_attention

ALLOWED_ERROR = 1e-6
"""Of numbers around 1 in float32: sums in another order."""

FLAGS = tuple(itertools.product((False, True), repeat=4))


def narrowed(attention: nn.Module) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(attention))
    narrow_attention(model, ["0"])
    return model[0]


@pytest.mark.parametrize(("batch_first", "has_bias", "need_weights", "average"), FLAGS)
@pytest.mark.parametrize("masks", ["none", "added", "padding", "both", "causal"])
def test_with_all_its_heads_it_is_the_original(masks, batch_first, has_bias, need_weights, average):
    torch.manual_seed(0)
    original = nn.MultiheadAttention(16, 4, batch_first=batch_first, bias=has_bias).eval()
    tokens = torch.randn(3, 5, 16) if batch_first else torch.randn(5, 3, 16)
    options = {"need_weights": need_weights, "average_attn_weights": average}
    if masks in ("added", "both"):
        options["attn_mask"] = torch.randn(5, 5)
    if masks in ("padding", "both"):
        # In the type of the other mask: torch announces to refuse two types.
        padding = torch.zeros(3, 5)
        padding[1, 3:] = float("-inf")
        options["key_padding_mask"] = padding
    if masks == "causal":
        options["attn_mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
        options["is_causal"] = True
    expected, found = (
        module(tokens, tokens, tokens, **options) for module in (original, narrowed(original))
    )
    torch.testing.assert_close(found, expected, atol=ALLOWED_ERROR, rtol=0)


def test_one_sequence_without_a_batch():
    torch.manual_seed(0)
    original, tokens = nn.MultiheadAttention(16, 4), torch.randn(5, 16)
    expected, found = (module(tokens, tokens, tokens) for module in (original, narrowed(original)))
    torch.testing.assert_close(found, expected, atol=ALLOWED_ERROR, rtol=0)


@pytest.mark.parametrize("gradients", [False, True])
def test_encoder_layers_of_torch_lose_heads_with_and_without_their_fused_path(gradients):
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)).eval()
    tokens = torch.randn(2, 5, 16)
    groups = channel_groups(model, tokens)
    kept = {"0.self_attn.in_proj_weight": [1, 3], "0.linear1.weight": range(3, 20)}
    smaller = remove_channels(model, groups, kept)
    mask_channels(model, groups, kept)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(smaller(tokens), model(tokens), atol=ALLOWED_ERROR, rtol=0)
    assert smaller[0].self_attn.in_proj_weight.shape == (24, 16)
