"""What half precision, recomputed blocks, inference mode and a compiled network change, in numbers.

Tables of docs/speed.md: the difference of D and of the gradient of |D|^2 in half precision, relative and
root mean square; bytes kept for one gradient, parameters aside; the time of a call under inference mode
over that under no_grad; value, gradient and time of a compiled network against the eager one (--compile:
minutes, most of them the compiler's).

    python benchmarks/network.py [--fast] [--compile]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import smcguide as sg
from smcguide.priors import NetworkPrior, recompute_blocks

MIB = 2**20
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def states(prior: NetworkPrior, num: int) -> Tensor:
    """The same standard normal numbers each time."""
    return torch.randn(num, *prior.event_shape, generator=torch.Generator().manual_seed(0))


def answers(prior: NetworkPrior, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """D and the gradient of |D|^2."""
    here = x.clone().requires_grad_()
    D = prior.denoise(here, t)
    return D.detach(), torch.autograd.grad(D.square().sum(), here)[0]


def differences(prior: NetworkPrior, other: NetworkPrior, t: float) -> tuple[float, float]:
    """Relative differences of value and gradient, root mean square."""
    x = states(prior, 64)
    pairs = zip(answers(prior, x, t), answers(other, x, t), strict=True)
    value, gradient = (float((a - b).norm() / a.norm()) for a, b in pairs)
    return value, gradient


def kept(prior: NetworkPrior, num: int) -> float:
    """MiB that one gradient for `num` particles keeps, parameters aside."""
    seen: dict[int, tuple[int, Tensor]] = {}

    def pack(a: Tensor) -> Tensor:
        storage = a.untyped_storage()
        seen[storage.data_ptr()] = (storage.nbytes(), a)
        return a

    with saved_tensors_hooks(pack, lambda a: a):
        D = prior.denoise(states(prior, num).requires_grad_(), 300.0)
    own = (
        {p.untyped_storage().data_ptr() for p in prior.net.parameters()} if D.requires_grad else ()
    )
    return sum(size for place, (size, _) in seen.items() if place not in own) / MIB


def ratio(f: Callable[[], object], g: Callable[[], object], turns: int) -> float:
    """Median of the time of f over that of g, in turns."""
    ratios = []
    for _ in range(turns):
        times = []
        for call in (f, g):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def unet64() -> NetworkPrior:
    """A small UNet of diffusers for 64 x 64 pixels, untrained."""
    import diffusers

    net = diffusers.UNet2DModel(
        sample_size=64, layers_per_block=1, block_out_channels=(32, 64, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    table = sg.priors.load("digits").schedule
    return NetworkPrior(net, table, "epsilon", (3, 64, 64), time_dtype=torch.float32)


def half(digits: NetworkPrior, times: list[float]) -> None:
    """The table of half precision."""
    casts = {name: digits.to(network_dtype=dtype) for name, dtype in HALVES.items()}
    print(
        "| t | "
        + " | ".join(f"{name}: D | gradient" for name in casts)
        + " |\n|---|---|---|---|---|"
    )
    for t in times:
        cells = [f"{e:.1e}" for cast in casts.values() for e in differences(digits, cast, t)]
        print(f"| {t:g} | " + " | ".join(cells) + " |")


def memory(digits: NetworkPrior) -> None:
    """The table of recomputed blocks."""
    print("\n| network | batch | as it is | recomputed |\n|---|---|---|---|")
    for name, prior, num in (("digits", digits, 64), ("UNet2DModel, 64 x 64", unet64(), 4)):
        less = copy.copy(prior)
        less.net = recompute_blocks(copy.deepcopy(prior.net))
        print(f"| {name} | {num} | {kept(prior, num):.1f} MiB | {kept(less, num):.1f} MiB |")


def inference(digits: NetworkPrior, fast: bool) -> None:
    """Inference mode over no_grad, and bfloat16 over float32."""
    cast = digits.to(network_dtype=torch.bfloat16)
    for num in (1, 64):
        x, turns = states(digits, num), 3 if fast else 4000 // (num + 40)

        def call(mode: Callable[[], object], x: Tensor = x) -> Callable[[], object]:
            return torch.no_grad()(mode()(lambda: digits.denoise(x, 300.0)))  # type: ignore[operator]

        modes = ratio(call(torch.inference_mode), call(torch.no_grad), turns)
        dtypes = ratio(
            lambda x=x: answers(cast, x, 300.0), lambda x=x: answers(digits, x, 300.0), turns
        )
        print(
            f"batch {num}: inference mode {modes:.3f}, bfloat16 forward and backward {dtypes:.2f}"
        )


def compiled(digits: NetworkPrior) -> None:
    """A compiled network against the eager one."""
    fast = copy.copy(digits)
    fast.net = torch.compile(copy.deepcopy(digits.net).requires_grad_(False))
    x = states(digits, 64)
    calls: dict[str, Callable[..., object]] = {
        "forward": torch.no_grad()(NetworkPrior.denoise), "forward and backward": answers
    }  # fmt: skip
    for name, f in calls.items():
        f(fast, x, 300.0)
        both = [lambda p=p, f=f: f(p, x, 300.0) for p in (fast, digits)]  # type: ignore[misc]
        print(f"compiled, {name}: {ratio(*both, 15):.2f} of the time")
    value, gradient = differences(digits, fast, 300.0)
    print(f"compiled: difference of D {value:.1e}, of the gradient {gradient:.1e}")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a smoke run")
    parser.add_argument(
        "--compile", action="store_true", help="the compiled network, too (minutes)"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    digits = sg.priors.load("digits")
    half(digits, [300.0] if args.fast else [10.0, 100.0, 300.0, 600.0, 900.0])
    memory(digits)
    inference(digits, args.fast)
    if args.compile:
        compiled(digits)


if __name__ == "__main__":
    main()
