"""The gate: its three states, and each of the numbers that decide."""

import json
import re

import numpy as np
import pytest

from fm3d_plugins.estimators.refinement.gate import judge

NAMES = tuple(f"{row}.jpg" for row in range(6))
GOOD = {
    "observations": np.full(6, 100),
    "turns_degrees": np.full(6, 1.0),
    "numbers": {"noise_degrees": 0.5, "rms": 0.4, "focal_change": 0.01},
    "held_out": np.r_[np.full(95, 0.5), np.full(5, 30.0)],
}


def judged(**changes):
    return judge(NAMES, **(GOOD | {"turn_spread_degrees": 0.75} | changes))


def test_good_numbers_are_accepted():
    report = judged()
    assert report.state == report.headline == "refined"
    assert report.is_accepted
    assert report.held_out_share == pytest.approx(0.95)
    assert report.mean_z == pytest.approx(1 / 0.75)
    assert (report.verified, report.views, report.observations) == (6, 6, 600)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"numbers": GOOD["numbers"] | {"noise_degrees": 4.1}}, "contradict the matches by 4.1"),
        ({"held_out": np.r_[np.full(84, 0.5), np.full(16, 30.0)]}, "84% of the held-out matches"),
        ({"turns_degrees": np.full(6, 3.1)}, r"turn by 4\.1 \(mean\)"),
        ({"turns_degrees": np.r_[np.zeros(5), 6.1]}, r"8\.1 deviations"),
        ({"observations": np.r_[100, np.zeros(5, int)]}, "1 of 6 photos have enough"),
    ],
)
def test_each_number_alone_can_reject(changes, reason):
    report = judged(**changes)
    assert report.state == "rejected"
    assert not report.is_accepted
    assert re.search(reason, report.reason)
    assert ";" not in report.reason


def test_views_with_few_observations_are_named_and_do_not_count():
    turns = np.r_[np.full(5, 1.0), 60.0]
    report = judged(observations=np.r_[np.full(5, 15), 14], turns_degrees=turns)
    assert report.headline == "partly verified 5/6"
    assert report.is_accepted
    assert report.unverified == ("5.jpg",)
    assert "5.jpg" in report.reason
    assert report.max_z == pytest.approx(1 / 0.75)


def test_a_report_is_json_even_of_nothing():
    report = judged(observations=np.zeros(6, int), held_out=np.zeros(0))
    values = report.values()
    assert values["held_out_share"] is None
    assert values["state"] == "rejected"
    assert json.loads(json.dumps(values, allow_nan=False)) == values
