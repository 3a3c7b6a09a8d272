"""The error of log Z: which estimator speaks, why, and what it is worth against the closed form.

The prior is a mixture, the measurement linear, so the evidence p(y) is known. Every
way to run the problem has its own estimate of the error, and a run that never resamples has the lower
bound of DTM besides.

    python examples/diagnostics/04_evidence.py          # some seconds; writes 04_evidence.png
"""

import torch

import smcguide as sg

MEANS = torch.tensor([[-2.0, -1.0], [1.0, 1.5], [2.0, -1.0]], dtype=torch.float64)
PRIOR = sg.priors.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), MEANS, scale=0.6)
A, Y, NOISE = torch.ones(1, 2, dtype=torch.float64), torch.tensor([1.5]).double(), 0.5
TRUTH = float(PRIOR.log_evidence(A, Y, NOISE))


def run(**options):
    cost = sg.costs.LinearGaussian(A, Y, noise_std=NOISE)
    return sg.sample(PRIOR, cost, num_particles=500, num_steps=100, progress=False, **options)


def main():
    systems = run(num_systems=6)
    runs = {
        "6 systems, the first": systems,
        "the 6 pooled": systems.pooled(),
        "one run": run(seed=1),
        "one run, multinomial": run(resampler=sg.resamplers.Multinomial(), seed=1),
        "never resampled": run(trigger=sg.triggers.never(), seed=1),
    }
    print(f"log Z in closed form {TRUTH:.3f}")
    for name, post in runs.items():
        found = sg.diagnostics.evidence_error(post)
        z, error = found.log_evidence.reshape(-1)[0], found.error.reshape(-1)[0]
        print(f"{name:21s} {z:.3f} +- {error:.3f} by {found.method}\n{'':21s} {found.why}")
        assert abs(z - TRUTH) < 4 * error + 0.03  # 0.03: what 100 steps may cost
    bound = float(runs["never resampled"].dtm_bound)
    gap = float(sg.diagnostics.bound_gap(runs["never resampled"]))
    print(f"lower bound {bound:.3f}: guidance is {gap:.2f} nats from the posterior's paths")

    ax = sg.plots.plot_evidence(runs, truth=TRUTH)
    ax.plot(bound, len(runs) - 1, "k<")
    ax.text(bound, len(runs) - 1.2, " lower bound", fontsize=7)
    ax.figure.savefig("04_evidence.png", dpi=150)
    assert bound < TRUTH


if __name__ == "__main__":
    main()
