"""Small networks, one per way in which channels are tied together."""

import warnings

import torch
from torch import nn
from torch.nn import functional

from spartan_planner.torchvision_operators import with_torchvision


class Residual(nn.Module):
    """A residual block with a shortcut of its own width."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.inner, self.inner_norm = nn.Conv2d(width, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, width, 3, padding=1, bias=False)
        self.last = nn.Linear(width * 16, 5)

    def forward(self, images):
        hidden = torch.relu(self.norm(self.stem(images)))
        hidden = hidden + self.outer(functional.silu(self.inner_norm(self.inner(hidden))))
        return self.last(functional.avg_pool2d(hidden, 2).flatten(1))


class Concatenated(nn.Module):
    """Two branches, one after the other in the inputs of a third layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 10, 3)
        self.norm, self.mix = nn.BatchNorm2d(16), nn.Conv2d(16, 7, 1)
        self.last = nn.Linear(7, 2)

    def forward(self, images):
        hidden = torch.cat([self.left(images), torch.sigmoid(self.right(images))], 1)
        return self.last(self.mix(self.norm(hidden)).amax((2, 3)))


class Chunked(nn.Module):
    """Halves of a layer's channels, one of which gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(4, 2)

    def forward(self, images):
        gate, hidden = self.first(images).chunk(2, 1)
        return self.last((hidden * torch.sigmoid(gate)).mean((2, 3)))


class Shuffled(nn.Module):
    """Channels in groups that swap places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.second, self.last = nn.Conv2d(12, 8, 3, groups=2), nn.Linear(8, 2)

    def forward(self, images):
        hidden = self.first(images)
        size = hidden.shape
        hidden = hidden.view(size[0], 2, size[1] // 2, *size[2:]).transpose(1, 2).reshape(size)
        return self.last(torch.relu(self.second(hidden)).mean((2, 3)))


class Excited(nn.Module):
    """Squeeze and excite: a gate per channel, computed from all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.last = nn.Linear(8, 2)

    def forward(self, images):
        hidden = self.first(images)
        gate = self.excite(torch.relu(self.squeeze(hidden.mean((2, 3), keepdim=True))))
        return self.last((hidden * functional.hardsigmoid(gate)).mean((2, 3)))


class Attention(nn.Module):
    """A block of a vision transformer with torch's packed attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 16)
        self.norm, self.attend = nn.LayerNorm(16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        normed = self.norm(hidden)
        hidden = hidden + self.attend(normed, normed, normed, need_weights=False)[0]
        hidden = hidden + self.down(functional.gelu(self.up(self.norm(hidden))))
        return self.head(hidden[:, 0])


class PackedAttention(nn.Module):
    """Queries, keys and values of one linear layer, with a table of biases per head."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.attn_dim = 4, 20
        self.qkv, self.proj = nn.Linear(16, 60), nn.Linear(20, 16)
        self.table = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("places", torch.randint(0, 9, (5, 5)))

    def forward(self, tokens):
        size = tokens.shape
        packed = self.qkv(tokens).reshape(size[0], size[1], 3, self.num_heads, -1)
        queries, keys, values = packed.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.places.view(-1)].view(5, 5, -1).permute(2, 0, 1)
        shares = (queries @ keys.transpose(-2, -1) / 2 + bias).softmax(-1)
        return self.proj((shares @ values).transpose(1, 2).reshape(size[0], size[1], -1))


IMAGE, TOKENS = (2, 3, 8, 8), (2, 5, 16)

NETWORKS = {
    "residual": (Residual, IMAGE),
    "concatenated": (Concatenated, IMAGE),
    "chunked": (Chunked, IMAGE),
    "shuffled": (Shuffled, IMAGE),
    "excited": (Excited, IMAGE),
    "attention": (Attention, TOKENS),
    "packed attention": (PackedAttention, TOKENS),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 12, 3, groups=6),
            nn.BatchNorm2d(12),
            nn.PReLU(12),
            nn.Conv2d(12, 4, 1),
            nn.Flatten(),
            nn.Linear(144, 3),
        ),
        IMAGE,
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 1),
            nn.Conv2d(12, 8, 3, groups=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 1, groups=4),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(144, 3),
        ),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 5, 2, stride=2), nn.Conv2d(5, 2, 3)
        ),
        IMAGE,
    ),
    "group norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 2, 3)
        ),
        IMAGE,
    ),
    "three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.AvgPool3d(2), nn.Conv3d(6, 2, 2)
        ),
        (1, 1, 8, 8, 8),
    ),
}
"""A function that builds it, and the shape of its input."""


def hugging_face(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A tiny language model of a family, and ids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = with_torchvision(_import_transformers)
        common = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
        if name == "llama":
            config = transformers.LlamaConfig(
                **common,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=8,
                num_key_value_heads=2,
                use_cache=False,
            )
            model = transformers.LlamaForCausalLM(config)
        elif name == "bert":
            config = transformers.BertConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
            )
            model = transformers.BertModel(config, add_pooling_layer=False)
        else:
            config = transformers.GPT2Config(
                **common, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False
            )
            model = transformers.GPT2LMHeadModel(config)
    return model.eval(), torch.arange(9).reshape(1, 9)


def _import_transformers():
    import transformers

    _ = transformers.LlamaConfig, transformers.LlamaForCausalLM
    return transformers
