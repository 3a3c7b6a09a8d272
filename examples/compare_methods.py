r"""Five ways to sample a posterior that is known in closed form: who is right, and who says so?

The prior is a mixture of three Gaussians in three dimensions, the measurement is their sum with noise,

    y = x_1 + x_2 + x_3 + n,    n ~ N(0, 1)

so the posterior is a mixture too, with known evidence and mean. Guidance alone (DPS as published, equal
weights) is biased and has no evidence. Its weights tell how bad that is: an effective sample size (ESS)
of 1. TDS and the default proposal are guided and weighted: right, with an error bar. Particle Gibbs
samples the same law with few particles at a time; it estimates no evidence.

    python examples/compare_methods.py          # about ten seconds on one core
"""

import torch

import smcguide as sg

MEANS = torch.tensor([[-2.0, -1.0, 0.0], [1.0, 1.0, 1.0], [2.0, -1.0, -1.0]])
PRIOR = sg.priors.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), MEANS, scale=1.0)
A, Y, NOISE = torch.ones(1, 3), torch.tensor([0.7]), 1.0
COST = sg.costs.LinearGaussian(A, Y, noise_std=NOISE)

LOG_Z = float(PRIOR.log_evidence(A, Y, NOISE))
MOMENTS = PRIOR.posterior(A, Y, NOISE).moments()
MEAN, STD = MOMENTS.mean, ((MOMENTS.basis**2) @ MOMENTS.variance).sqrt()


def distance(mean):
    """Error of a mean, in posterior standard deviations, of the worst coordinate."""
    return float(((mean - MEAN) / STD).abs().max())


def row(label, post):
    """Label, error of log Z and its standard error, error of the mean, ESS."""
    error, se = float(post.log_evidence) - LOG_Z, float(post.log_evidence_se)
    return label, error, se, distance(post.mean()), float(post.ess)


def smc(num_systems=8, **parts):
    """Replicates of 512 particles, as one population."""
    return sg.sample(
        PRIOR, COST, num_particles=512, num_systems=num_systems, progress=False, **parts
    ).pooled()


def gibbs(label):
    """256 chains of particle Gibbs with 16 particles each; their spread gives the ESS of their mean."""
    model = sg.GuidedDiffusion(
        PRIOR, COST, kernel=sg.kernels.MatchedDDPM(), times=sg.grids.uniform(100),
        potential=sg.potentials.InflatedGaussian(), proposal=sg.proposals.Gradient(trust=2.0),
    )  # fmt: skip
    chains = sg.particle_gibbs(
        model, sweeps=6, num_particles=16, num_chains=256, burn_in=3, progress=False
    )
    variance_of_mean = chains.x.double().mean(1).var(0) / len(chains.x)
    ess = float((STD**2 / variance_of_mean).min())
    return label, float("nan"), float("nan"), distance(chains.mean()), ess


def main():
    dps = smc(**sg.presets.dps())
    rows = [
        row("DPS as published", dps.unweighted()),
        row("DPS, weighted", dps),
        row("TDS", smc(**sg.presets.tds())),
        row("default", smc(times=sg.grids.uniform(100))),
        gibbs("particle Gibbs"),
    ]
    print("method              error of log Z  +- s.e.   error of mean / std      ESS")
    for label, error, se, off, ess in rows:
        print(f"{label:18s} {error:15.3f} {se:8.3f} {off:21.3f} {ess:8.0f}")

    published, weighted, tds, default, chains = rows
    assert published[3] > 1, "guidance alone is biased"
    assert weighted[4] < 5, "and its weights say so"
    for (_, error, se, off, ess), largest_se, largest_off in (
        (tds, 0.3, 0.4),
        (default, 0.03, 0.1),
    ):
        assert se < largest_se and abs(error) < 4 * se + 0.03  # 0.03: what 100 steps may cost
        assert off < largest_off and ess > 1000
    assert chains[4] > 500 and chains[3] < 4 / chains[4] ** 0.5 + 0.05


if __name__ == "__main__":
    main()
