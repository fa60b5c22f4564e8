"""Models of the bundled recipes, named like ``package.module:factory``."""

from typing import Any

import torch
from torch import Tensor, nn

from spartan_planner.errors import ModelError
from spartan_planner.model_names import import_models
from spartan_planner.training.data.text import VOCABULARY_SIZE

NUM_CLASSES = 10


def cifar_resnet18() -> nn.Module:
    """ResNet-18 for images of 32 x 32: a 3x3 stem of stride 1 and no pooling behind it.

    The changes that He et al. (2016) make for small images, on the four stages of the large
    network; 11.2 M parameters.
    """
    models: Any = import_models("torchvision.models")
    model: Any = models.resnet18(num_classes=NUM_CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    network: nn.Module = model
    return network


def convolution(num_inputs: int, num_outputs: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(num_outputs),
        nn.ReLU(),
    )


def plain_cnn(num_channels: int = 1, width: float = 1.0) -> nn.Sequential:
    """Four convolutions of 32, 64, 128 and 128 times ``width`` outputs, and a classifier.

    Three of them halve the image; 242 k parameters at width 1.  Its first two layers are small
    beside the others, as in most networks.
    """
    widths = [max(1, round(outputs * width)) for outputs in (32, 64, 128, 128)]
    return nn.Sequential(
        convolution(num_channels, widths[0], 2),
        convolution(widths[0], widths[1], 2),
        convolution(widths[1], widths[2], 2),
        convolution(widths[2], widths[3], 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[3], NUM_CLASSES),
    )


def fashion_mnist_cnn() -> nn.Sequential:
    """The plain CNN for grey images."""
    return plain_cnn()


class CausalAttention(nn.Module):
    """Self-attention in which a character sees itself and what came before."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``[N, T, width]`` to the same shape."""
        batch, num_tokens, width = hidden.shape
        split = self.query_key_value(hidden).view(batch, num_tokens, 3, self.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, num_tokens, width))
        return output


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and around a shortcut."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``[N, T, width]`` to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        output: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return output


class CharacterTransformer(nn.Module):
    """Predicts the next character of a text; characters are bytes.

    Args:
        width: features of a character.
        num_blocks: transformer blocks.
        num_heads: heads of attention.
        max_context: most characters that it can look at.
    """

    def __init__(
        self, width: int = 256, num_blocks: int = 4, num_heads: int = 4, max_context: int = 512
    ) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY_SIZE, width)
        self.positions = nn.Embedding(max_context, width)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, num_heads) for _ in range(num_blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY_SIZE, bias=False)
        for embedding in (self.characters, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Map characters ``[N, T]`` to logits ``[N, T, 256]`` of those that follow.

        Raises:
            ModelError: there are more characters than it can look at.
        """
        num_tokens = characters.shape[1]
        if num_tokens > self.positions.num_embeddings:
            raise ModelError(
                f"a context of {num_tokens} characters is more than the "
                f"{self.positions.num_embeddings} that this model looks at; shorten it"
            )
        where = self.positions(torch.arange(num_tokens, device=characters.device))
        logits: Tensor = self.head(self.norm(self.blocks(self.characters(characters) + where)))
        return logits


def character_transformer() -> CharacterTransformer:
    """Four blocks of width 256: 3.4 M parameters."""
    return CharacterTransformer()
