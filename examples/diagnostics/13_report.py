"""A page to send to a colleague: two methods on one problem, verdict first, compared.

The report holds everything it shows: it opens offline, in any browser. `smcguide report a.nc b.nc -o
compared.html` makes such a page from saved runs.

    python examples/diagnostics/13_report.py          # some seconds; writes 13_report.html
"""

from pathlib import Path

import torch

import smcguide as sg

MEANS = torch.tensor([[-2.0, -1.0], [1.0, 1.5], [2.0, -1.0]])
PRIOR = sg.priors.GaussianMixture(torch.ones(3), MEANS, scale=0.6)
COST = sg.costs.LinearGaussian(torch.ones(1, 2), torch.tensor([0.5]), noise_std=0.1)


def run(**parts):
    return sg.sample(
        PRIOR,
        COST,
        num_particles=300,
        num_systems=2,
        progress=False,
        record=("ancestors",),
        **parts,
    )


def main():
    runs = {"default": run(num_steps=60), "DPS, weighted": run(**sg.presets.dps(num_steps=60))}
    path = Path("13_report.html")
    sg.report.write_report(runs, path)
    page = path.read_text()
    print(f"{len(page) / 1e6:.1f} MB, {page.count('<img')} pictures")
    for name, post in runs.items():
        print(f"{name}: {len(post.verdict().findings)} findings, ESS {post.ess.min():.1f}")
    assert all(name in page for name in runs) and len(page) < 5e6
    assert 'src="http' not in page and 'href="http' not in page
    assert runs["default"].verdict().is_trusted and not runs["DPS, weighted"].verdict().is_trusted


if __name__ == "__main__":
    main()
