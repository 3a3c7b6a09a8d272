"""A network of 5 million parameters for images of 3 x 64 x 64: a diffusers `UNet2DModel` with random
weights, always the same. Most parameters are at 4 x 4, so that a forward pass is some 10 ms an image on
one core. A velocity network ("v") that says about 0 is a prior close to N(0, I): runs stay finite."""

import torch
from diffusers import DDPMScheduler, UNet2DModel

import smcguide as sg

CHANNELS = (16, 24, 48, 64, 192)


def prior() -> sg.priors.NetworkPrior:
    """The network and its schedule; its parameters need no gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2DModel(
            sample_size=64, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=8,
            block_out_channels=CHANNELS,
            down_block_types=("DownBlock2D",) * len(CHANNELS),
            up_block_types=("UpBlock2D",) * len(CHANNELS),
        )  # fmt: skip
    scheduler = DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    return sg.priors.from_diffusers((net.requires_grad_(False), scheduler))
