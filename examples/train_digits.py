r"""Train a small diffusion prior on scikit-learn's handwritten digits, save it for diffusers.

The data are 1797 images of 8 x 8 pixels, scaled to [-1, 1]; the last 297 are held out. With
x_t = alpha x_0 + sigma eps the network learns v = alpha eps - sigma x_0 by least squares,

    loss = E |F(x_t, t) - v|^2 = E (1 + alpha^2 / sigma^2) |D(x_t) - x_0|^2,

an SNR-weighted denoising loss with a finite weight at pure noise. Times are stratified over the
batch and the saved weights are an exponential moving average. Ends with the denoising error on
held-out digits, beside that of the best linear denoiser.

    python examples/train_digits.py --out digits-prior          # about five minutes on two cores
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import trange

TRAIN, LEVELS = 1500, (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


def build() -> tuple[UNet2DModel, DDPMScheduler]:
    """A U-Net of 150 000 parameters and the linear schedule of DDPM."""
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 32),
        layers_per_block=0, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=8, add_attention=False,
    )  # fmt: skip
    return net, DDPMScheduler(1000, prediction_type="v_prediction", clip_sample=False)


def train(data: Tensor, steps: int, batch: int = 128, peak: float = 2e-3) -> nn.Module:
    """The averaged network after `steps` of AdamW with a cosine learning rate."""
    net, scheduler = build()
    average, abar = copy.deepcopy(net), scheduler.alphas_cumprod
    optimiser = torch.optim.AdamW(net.parameters(), lr=peak, weight_decay=0.0, betas=(0.9, 0.99))
    for k in trange(steps, unit="step", disable=None):
        rate = peak * min(1.0, (k + 1) / 200) * 0.5 * (1 + math.cos(math.pi * k / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x0 = data[torch.randint(len(data), (batch,))]
        t = ((torch.arange(batch) + torch.rand(batch)) / batch * len(abar)).long()
        alpha, sigma = abar[t].sqrt().view(-1, 1, 1, 1), (1 - abar[t]).sqrt().view(-1, 1, 1, 1)
        eps = torch.randn_like(x0)
        out = net(alpha * x0 + sigma * eps, t).sample
        loss = (out - (alpha * eps - sigma * x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        keep = min(0.999, (k + 1) / (k + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - keep)
    return average.eval()


@torch.no_grad()
def network_error(net: nn.Module, x0: Tensor, ratio: float) -> float:
    """Mean squared error of the denoiser at noise level sigma / alpha = ratio."""
    abar = build()[1].alphas_cumprod.double()
    t = int(((1 - abar) / abar).sqrt().log().sub(math.log(ratio)).abs().argmin())
    alpha, sigma = float(abar[t].sqrt()), float((1 - abar[t]).sqrt())
    generator, total = torch.Generator().manual_seed(1), 0.0
    for _ in range(8):
        x = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator)
        total += float((alpha * x - sigma * net(x, t).sample - x0).square().mean())
    return total / 8


def linear_error(data: Tensor, x0: Tensor, ratio: float) -> float:
    """The same for the linear denoiser made of the training mean and covariance."""
    flat = data.flatten(1).double()
    mean, v_U = flat.mean(0), torch.linalg.eigh(torch.cov(flat.T))
    v, U = v_U.eigenvalues.clamp(min=0), v_U.eigenvectors
    gain = v / (v + ratio**2)
    held_out = ((x0.flatten(1).double() - mean) @ U).square().mean(0)
    return float(((1 - gain) ** 2 * held_out + gain**2 * ratio**2).mean())


def main() -> None:
    """Train, save, and report the held-out error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits-prior"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    images = torch.tensor(load_digits().images / 8 - 1, dtype=torch.float32)[:, None]
    data, held_out = images[:TRAIN], images[TRAIN:]
    start = time.perf_counter()
    net = train(data, args.steps)
    print(f"{args.steps} steps in {time.perf_counter() - start:.0f} s")
    DDPMPipeline(net, build()[1]).save_pretrained(args.out)
    print(f"saved {args.out}\nnoise   network    linear")
    errors = [(network_error(net, held_out, r), linear_error(data, held_out, r)) for r in LEVELS]
    for ratio, (ours, linear) in zip(LEVELS, errors, strict=True):
        print(f"{ratio:5.2f} {ours:9.5f} {linear:9.5f}")
    ours, linear = errors[LEVELS.index(0.5)]
    if args.steps >= 3000 and ours > 0.8 * linear:
        raise SystemExit(
            f"At noise 0.5 the network's error {ours:.4f} should be below 0.8 x {linear:.4f}."
        )


if __name__ == "__main__":
    main()
