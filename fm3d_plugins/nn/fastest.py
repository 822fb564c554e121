"""Which of several equal ways of computing something is the fastest on this machine."""

import contextlib
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.files import read_json

Ways = Mapping[str, Callable[[], object]]
"""By name; the first is torch's own, which stays where no other is clearly faster."""

LEAST_GAIN = 0.95
"""Share of the time of torch's own way that another must stay below."""
SECONDS = 0.2
"""Of the processor, after which a measurement ends; every way runs at least twice."""

chosen: dict[tuple[str, int], str] = {}
"""The answers so far in this process, by question and number of threads."""

_LOG = logging.getLogger(__name__)


def fastest(question: str, make_ways: Callable[[], Ways]) -> str:
    """Name of the way that takes the least time on this machine with this number of threads.

    Measured when it is first asked, in a fraction of a second, and remembered in the folder of
    caches for the same processor, torch and number of threads. To measure anew, delete the file.

    Args:
        make_ways: Prepares a small instance of the question; called when it must be measured.
    """
    key = question, torch.get_num_threads()
    if key not in chosen:
        ways = make_ways()
        machine, answers = f"{processor()}, torch {torch.__version__}", _remembered()
        place = f"{machine}, {key[1]} threads"
        known = answers.get(place, {})
        if str(known.get(question)) not in ways:
            known = {**known, question: _measured(question, ways, place)}
            _remember({**answers, place: known})
        chosen[key] = known[question]
    return chosen[key]


def processor() -> str:
    """The processor's name, with the numbers that tell those of one name apart."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        if "model name" in facts:
            numbers = (facts.get(key, "unknown") for key in ("model name", "cpu family", "model"))
            return "{} (family {}, model {})".format(*numbers)
    return platform.processor() or platform.machine()


@torch.inference_mode()
def _measured(question: str, ways: Ways, place: str) -> str:
    """The fastest way, by the least time of each: the processor's, which other programs share."""
    runs: dict[str, list[float]] = {name: [] for name in ways}
    start = time.process_time()
    while len(runs[next(iter(ways))]) < 2 or time.process_time() - start < SECONDS:
        for name, way in ways.items():
            before = time.process_time()
            way()
            runs[name].append(time.process_time() - before)
    least = {name: min(seconds) for name, seconds in runs.items()}
    own, best = next(iter(ways)), min(least, key=least.__getitem__)
    choice = best if least[best] < LEAST_GAIN * least[own] else own
    times = ", ".join(f"{name} {1e3 * each:.1f} ms" for name, each in least.items())
    _LOG.debug("%s: %s, by %s (%s)", question, choice, times, place)
    return choice


def _file() -> Path:
    return cache_folder() / "fastest.json"


def _remembered() -> dict[str, dict]:
    """Answers by machine, of any type; none where the file is absent or not one of ours."""
    # RuntimeError: links in a circle.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        answers = read_json(_file())
        if isinstance(answers, dict) and all(isinstance(each, dict) for each in answers.values()):
            return answers
    return {}


def _remember(answers: dict[str, dict]) -> None:
    """Write them, where that is possible."""
    with contextlib.suppress(OSError, RuntimeError), atomic_write(_file()) as path:
        path.write_text(json.dumps(answers, indent=1))
