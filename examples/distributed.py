"""One population over several processes: the same script with and without torchrun, and the same answer.

The prior is a Gaussian mixture, so the evidence is known. Three ways to use R processes:

    one population   N particles, resampled as one; log-weights and few particles travel
    islands          each process resamples within itself, whole islands are exchanged rarely
    systems          each process runs some of the replicates; nothing travels before the end

    python examples/distributed.py                                          # one process, seconds
    torchrun --standalone --nproc-per-node 2 examples/distributed.py        # the same over two
"""

import time

import torch

import smcguide as sg
from smcguide import distributed

SYSTEMS = 16


def main() -> None:
    world, device = distributed.join(), distributed.device()
    source = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(5, 16, generator=source, dtype=torch.float64)
    prior = sg.priors.GaussianMixture(torch.ones(5), means, scale=1.0)
    A = torch.randn(2, 16, generator=source, dtype=torch.float64)
    y = A @ means[0] + 0.5
    truth = float(prior.log_evidence(A, y, 1.0))
    model = sg.model(prior.to(device), sg.costs.LinearGaussian(A, y, 1.0), num_steps=40)
    sizes = {"num_particles": 512, "num_systems": SYSTEMS, "progress": False}

    def compare(name: str, post: sg.Posterior | None, seconds: float) -> None:
        if post is None:  # all but the first process
            return
        error = float(post.log_z.exp().mean().log()) - truth
        se = float(post.log_z.std()) / SYSTEMS**0.5
        print(f"{name:16s} log Z - truth {error:+.3f} +- {se:.3f}   {seconds:.1f} s", end="")
        print("".join(f"   {k} {v}" for k, v in post.settings.items() if k.startswith("bytes")))
        assert abs(error) < 0.1 + 4 * se

    if world.rank == 0:
        print(f"{world.size} processes")
    begin = time.perf_counter()
    post = distributed.run(model, **sizes)
    compare("one population", post, time.perf_counter() - begin)
    begin = time.perf_counter()
    post = distributed.run(model, **sizes, islands=distributed.Islands(every=5))
    compare("islands", post, time.perf_counter() - begin)
    begin = time.perf_counter()
    post = distributed.run_systems(lambda here: model, SYSTEMS, num_particles=512, progress=False)
    compare("systems", post, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
