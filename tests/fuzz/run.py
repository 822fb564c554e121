"""Damage the files of every reader many times: `python tests/fuzz/run.py [--only WORD]`.

Prints a table of what came of it, and for each fault the seed that shows it again. The exit status
is 1 where there is one.
"""

import argparse
import sys
import tempfile
import time
import types
from pathlib import Path

# Packages are installed that bring a folder `tests` of their own.
TESTS = types.ModuleType("tests")
TESTS.__path__ = [str(Path(__file__).resolve().parents[1])]
sys.modules["tests"] = TESTS

from tests.fuzz.readers import READERS  # noqa: E402
from tests.fuzz.running import fuzz  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000, help="for each reader")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.mutations)
    faults, shown = [], {}
    print(f"Seeds {seeds.start} to {seeds.stop - 1} of each reader.")
    print(f"{'reader':<24}{'refused':>9}{'taken':>9}{'faults':>9}{'CPU-s':>9}")
    for reader in READERS:
        if options.only.lower() in reader.name.lower():
            start = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                tally = fuzz(reader, Path(folder), seeds)
            refused, taken = tally.counts["refused"], tally.counts["taken"]
            seconds = time.process_time() - start
            print(
                f"{reader.name:<24}{refused:>9}{taken:>9}{len(tally.faults):>9}{seconds:>9.1f}",
                flush=True,
            )
            faults += tally.faults
    for fault in faults:
        # Of each place one is enough to begin with.
        place = fault.rsplit(" at ", 1)[-1]
        shown.setdefault((fault.split(",")[0], place), []).append(fault)
    for same in shown.values():
        print(f"{len(same)} like this: {same[0]}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
