"""The particles on their way from noise to data: a moving picture, and one line of descent.

Three Gaussians in the plane and a measurement of the sum of the coordinates. Particles wander, are
weighted (colour) and resampled; the filmstrip follows one final particle back through its ancestors.

    python examples/diagnostics/14_animation.py    # writes 14_animation.gif and 14_animation.png
"""

import torch

import smcguide as sg

MEANS = torch.tensor([[-2.0, -1.0], [1.0, 1.5], [2.0, -1.0]], dtype=torch.float64)
PRIOR = sg.priors.GaussianMixture(torch.ones(3), MEANS, scale=0.5)
A, Y, NOISE = torch.ones(1, 2).double(), torch.tensor([1.0]).double(), 0.3


def main():
    post = sg.sample(
        PRIOR, sg.costs.LinearGaussian(A, Y, noise_std=NOISE), num_particles=500, num_steps=40,
        record=("particles", "log_weights", "ancestors"), progress=False,
    )  # fmt: skip
    path = sg.plots.animate(post, "14_animation.gif", num_frames=20)
    sg.plots.plot_trajectory(post)[0].figure.savefig("14_animation.png", dpi=150)

    states = post.recorded["particles"][0]
    spread = (states @ A[0] - Y).square().mean(1).sqrt()
    exact = PRIOR.posterior(A, Y, NOISE).sample(100_000)
    expected = float((exact @ A[0] - Y).square().mean().sqrt())
    found = float(post.expect(lambda x: (x @ A[0] - Y).square()).sqrt())
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    print(
        f"distance to the data {spread[0]:.2f} at the start, {found:.3f} at the end, exact {expected:.3f}"
    )
    assert abs(found / expected - 1) < 0.2


if __name__ == "__main__":
    main()
