r"""Final weights: ESS, perplexity, the largest weight, and k-hat against its closed form.

The prior is N(0, 1) and the reward a x^2 / 2, so the posterior is N(0, 1 / (1 - a)). Weights w of
draws from the prior have a tail P(w > t) ~ t^(-1/a): its shape, which k-hat estimates, is a itself. For
a = 0.8 their variance is infinite, and a large ESS in one run promises nothing for the next.

    python examples/diagnostics/02_weights.py          # some seconds; writes 02_weights.png
"""

import torch
from matplotlib.figure import Figure

import smcguide as sg

PRIOR = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 1, dtype=torch.float64), scale=1.0)
SIZES = {"num_particles": 2000, "num_systems": 8, "num_steps": 50, "seed": 0, "progress": False}


def run(a, **parts):
    return sg.sample(PRIOR, lambda x: -a * x[:, 0].square() / 2, **parts, **SIZES)


def main():
    look = sg.diagnostics
    blind = {"potential": sg.potentials.Terminal(), "proposal": sg.proposals.Bootstrap()}
    runs = {
        "from the prior, a = 0.3": run(0.3, **blind),
        "from the prior, a = 0.8": run(0.8, **blind),
        "guided, a = 0.8": run(0.8),
    }
    print(f"{'':24s}    ESS  perplexity  largest  k-hat   (means over 8 systems)")
    k_hat = {}
    for name, post in runs.items():
        perplexity, largest, k = (
            float(f(post.log_w).mean())
            for f in (look.perplexity, look.largest_weight, look.pareto_k)
        )
        print(f"{name:24s} {post.ess.mean():6.0f} {perplexity:11.2f} {largest:8.4f} {k:6.2f}")
        k_hat[name] = k

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for ax, (name, post) in zip(figure.subplots(1, 3), runs.items(), strict=True):
        sg.plots.plot_weights(post, ax=ax)
        ax.set_title(f"{name}\n{ax.get_title()}", fontsize=8)
    figure.savefig("02_weights.png", dpi=150)

    assert abs(k_hat["from the prior, a = 0.3"] - 0.3) < 0.2
    assert abs(k_hat["from the prior, a = 0.8"] - 0.8) < 0.2
    assert k_hat["guided, a = 0.8"] < 0.5


if __name__ == "__main__":
    main()
