"""Real drift: other domains, and text of the same one that the monitor has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binom

from benchmarks.drift import OTHERS, Sizes, lines, measured


@pytest.mark.integration
@pytest.mark.regression
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("registry_home")
def test_other_domains_and_held_out_rows(tmp_path: Path) -> None:
    """Products, tweets and editorials raise an alarm each; of 200 draws of held-out movie snippets
    as many as is stated do, within what chance allows (binomial, 1 in 1,000 on each side)."""
    sizes = Sizes(source=800, train=700, labelled=200, test=1000, held=2400, fresh=100)
    found = measured(tmp_path, sizes)
    told = "\n".join(lines(found, sizes))
    for domain in OTHERS:
        assert found.domains[domain]["drifted"], told
    assert found.held_out == 2400
    low, high = binom.ppf([0.001, 0.999], sizes.draws, 0.05)
    assert low <= found.alarms <= high, told
