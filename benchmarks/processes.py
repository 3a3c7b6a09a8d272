"""One population over processes: time of a run, and what an exchange costs.

N = 4096 particles of d = 64 in float32, mixture priors with their exact denoiser, 20 steps; medians of
five runs after a first one. Start it with 1 and with 2 processes and compare:

    python benchmarks/processes.py
    torchrun --standalone --nproc-per-node 2 benchmarks/processes.py
"""

import statistics
import time

import torch

import smcguide as sg
from smcguide import distributed
from smcguide.distributed.assignment import at_home, moves

N, D, STEPS = 4096, 64, 20


def model(num_components):
    g = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(num_components, D, generator=g)
    prior = sg.priors.GaussianMixture(torch.ones(num_components), means, scale=0.5)
    cost = sg.costs.LinearGaussian(torch.eye(D)[:4], means[0, :4], 0.5)
    return sg.model(prior, cost, num_steps=STEPS)


def seconds(call):
    """Median wall and processor seconds of this process."""
    call()
    found = []
    for _ in range(5):
        start = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [statistics.median(column) for column in zip(*found, strict=True)]


def main():
    torch.set_num_threads(1)
    world = distributed.join()
    rows = []
    for num_components in (25, 400):
        problem = model(num_components)
        for islands in (None, distributed.Islands(every=5)):
            if islands is not None and world.size == 1:
                continue

            def call(problem=problem, islands=islands):
                distributed.run(problem, num_particles=N, islands=islands, progress=False)

            kind = "one population" if islands is None else "islands"
            rows.append((f"{num_components} components, {kind}", *seconds(call)))
    if world.size > 1:
        for size in (1, 2048):
            a = torch.zeros(size, dtype=torch.float64)
            rows.append((f"all-gather of {size}, 100 times", *seconds(lambda a=a: many(world, a))))
    else:
        for num in (4096, 10**6):
            rows.append(
                (f"selection, N = {num}, for 8 processes", *seconds(lambda n=num: selection(n)))
            )
    if world.rank == 0:
        print(f"{world.size} processes, seconds: wall, and of the first process's processor")
        for name, wall, cpu in rows:
            print(f"{name:36s} {wall:8.4f} {cpu:8.4f}")
        print(f"rows that travel at N = 10^6 between 8 processes: {selection(10**6)}")


def selection(num_particles, size=8):
    """Ancestors, slots and moves for log-weights of standard deviation 2; rows that travel."""
    g = torch.Generator().manual_seed(0)
    log_w = 2 * torch.randn(1, num_particles, generator=g, dtype=torch.float64)
    ancestors = at_home(sg.resamplers.Systematic()(log_w, g), num_particles, size)
    return moves(ancestors, 0, size).total


def many(world, a):
    for _ in range(100):
        world.gather(a)


if __name__ == "__main__":
    main()
