"""The published NDTM sampler, number for number (recorded from the authors' code, arXiv 2502.03686)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import smcguide as sg

GOLDEN = Path(__file__).parent / "golden" / "ndtm.npz"
RUNS = {
    "linear": (
        0.7,
        sg.proposals.DTM(
            objective=sg.proposals.Published(gamma=2.0, terminal_weight=50.0, weights="ddim"),
            num_iters=2, solver="adam", learning_rate=0.01, decay=True, trust=math.inf,
        ),
    ),
    "nonlinear": (
        0.1,
        sg.proposals.DTM(
            objective=sg.proposals.Published(gamma=1.0, terminal_weight=25.0, weights="ddpm"),
            num_iters=3, solver="adam", learning_rate=0.02, warm_start=True, trust=math.inf,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_golden_path_A1(name: str) -> None:
    golden = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN).items()}
    eta, proposal = RUNS[name]
    abar = torch.cumprod(1 - golden["betas"], 0)
    prior = sg.priors.GaussianMixture(
        golden["weights"],
        golden["means"].reshape(-1, 1, 4, 4),
        scale=golden["std"],
        schedule=sg.schedules.DDPMTable(abar),
    )
    A, y = golden["A"], golden[f"{name}/y"]

    def misfit(x0: torch.Tensor) -> torch.Tensor:
        image = x0.flatten(1) @ A.T
        image = image if name == "linear" else torch.tanh(2 * image)
        return (y - image).square().sum(-1)

    steps = golden[f"{name}/timesteps"].double().flip(0)
    model = sg.GuidedDiffusion(
        prior,
        misfit,
        kernel=sg.kernels.DDIM(eta=eta, clip=(-1.0, 1.0)),
        times=torch.cat([steps + 1, torch.zeros(1, dtype=torch.float64)]),
        potential=sg.potentials.Terminal(),
        proposal=proposal,
    )
    path, noise = golden[f"{name}/x_path"], golden[f"{name}/noise"]
    x, carry = path[0][None], {}
    carry = dict(model.initial((1, 4), torch.Generator().manual_seed(0)).carry)
    carry |= model.look_ahead(0, x, carry)
    for k in range(model.num_steps - 1):
        moved = model.advance(k, x, carry, noise[k][None])
        torch.testing.assert_close(moved.x[0], path[k + 1], rtol=1e-6, atol=1e-6)
        x, carry = moved.x, dict(moved.carry)
    # the published sampler guides its last, noise-free step, which no weight could correct
    _, guided = model.kernels(model.num_steps - 1, x, carry, guide_last=True)
    torch.testing.assert_close(guided.mean[0], path[-1], rtol=1e-6, atol=1e-6)
