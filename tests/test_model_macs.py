"""Multiply-adds of whole models: by hand, and by torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spartan_planner.extraction import extract_workload
from spartan_planner.model_names import inputs_suiting, load_model


def transformer_macs(depth, tokens, width, hidden):
    """Per block: four projections, two products of attention, two layers of the perceptron."""
    return depth * (tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width)


IMAGE = (1, 3, 224, 224)
WORDS = (1, 128)
BASE = (12, 128, 768, 3072)
PATCHES = 196 * 768 * 3 * 16 * 16
CLOSED_FORMS = [
    ("torchvision:vit_b_16", IMAGE, PATCHES + transformer_macs(12, 197, 768, 3072) + 768 * 1000),
    ("timm:vit_base_patch16_224", IMAGE, PATCHES + transformer_macs(12, 197, 768, 3072) + 768000),
    # The pooler reads one token.
    ("transformers:bert", WORDS, transformer_macs(*BASE) + 768 * 768),
    ("transformers:gpt2", WORDS, transformer_macs(*BASE)),
]


def workload_of(name, shape):
    model = load_model(name, on_meta=True)
    inputs = inputs_suiting(model, (torch.empty(shape),))
    return model, inputs, extract_workload(model, inputs, name)


@pytest.mark.parametrize(("name", "shape", "macs"), CLOSED_FORMS)
def test_closed_form(name, shape, macs):
    _, _, workload = workload_of(name, shape)
    assert workload.macs == macs
    assert all(layer.prunable or layer.not_prunable_because for layer in workload.layers)


def test_an_encoder_with_a_decoder():
    """The decoder's blocks attend twice; T5 looks at its mask, so it needs values."""
    model = load_model("transformers:t5")
    inputs = inputs_suiting(model, (torch.empty(1, 16),))
    workload = extract_workload(model, inputs, "t5")
    attending_again = 6 * (16 * 4 * 512**2 + 2 * 16**2 * 512)
    assert workload.macs == 2 * transformer_macs(6, 16, 512, 2048) + attending_again


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_values_do_not_matter(device):
    model = load_model("torchvision:mobilenet_v2").to(device)
    workload = extract_workload(model, torch.randn(1, 3, 64, 64), "one")
    assert workload.macs == workload_of("torchvision:mobilenet_v2", (1, 3, 64, 64))[2].macs


COUNTED = [
    *(
        (f"timm:{name}", (1, 3, size, size))
        for name, size in [
            ("nf_resnet50", 224),
            ("resnetv2_50", 224),
            ("beit_base_patch16_224", 224),
            ("mixer_s16_224", 224),
            ("tf_efficientnet_cc_b0_4e", 224),
            ("mobilenetv3_large_100", 224),
            ("swin_tiny_patch4_window7_224", 224),
            ("maxvit_tiny_tf_224", 224),
            ("levit_128", 224),
            ("xcit_nano_12_p16_224", 224),
            ("botnet26t_256", 256),
            ("resnetblur50", 224),
        ]
    ),
    *(
        (f"transformers:{name}", shape)
        for name, shape in [
            ("vit", IMAGE),
            ("deit", IMAGE),
            ("swin", IMAGE),
            ("convnext", IMAGE),
            ("segformer", IMAGE),
            ("llama", WORDS),
            ("qwen3", WORDS),
            ("gpt_neox", WORDS),
            ("distilbert", WORDS),
            ("opt", WORDS),
            ("albert", WORDS),
            ("electra", WORDS),
        ]
    ),
]


@pytest.mark.parametrize(("name", "shape"), COUNTED)
def test_against_torchs_own_counter(name, shape):
    model, inputs, workload = workload_of(name, shape)
    assert workload.num_parameters == sum(item.numel() for item in model.parameters())
    model.eval()
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(*(item.to("meta") for item in inputs))
    assert workload.macs == counter.get_total_flops() / 2


def test_experts_are_counted_by_the_tokens_that_reach_them():
    """Torch's counter leaves them out: each token meets two of eight, three matrices each."""
    _, _, workload = workload_of("transformers:mixtral", (1, 64))
    experts = [layer for layer in workload.layers if ".experts." in layer.name]
    assert len(experts) == 2 * 32
    assert sum(layer.macs for layer in experts) == 32 * 64 * 2 * 3 * 4096 * 14336
    assert {layer.not_prunable_because for layer in experts} == {
        "it is a stack of matrices, each with inputs of its own"
    }
