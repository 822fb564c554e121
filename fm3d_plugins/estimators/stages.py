"""What a person sees of a long estimation: a bar per stage; and how long each one took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from fm3d_plugins.progress import signs_of_life


@dataclass
class Stages:
    """A progress bar for each stage, and its seconds afterwards."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """For each stage "wall", and "cpu" (of this process, all threads); repeated stages add up."""

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the body runs; call what is yielded with the number of steps done."""
        from nerfstudio.utils.rich_utils import CONSOLE
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        wall, cpu = time.perf_counter(), time.process_time()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed())
        try:
            silent = not CONSOLE.is_terminal
            with Progress(*columns, console=CONSOLE, transient=True, disable=silent) as bars:
                bar = bars.add_task(label, total=total)
                done = 0

                def report(count: int) -> None:
                    nonlocal done
                    done = min(count, total)
                    bars.update(bar, completed=done)

                def line(seconds: float) -> str:
                    return f"{label}: {done} of {total} after {seconds:.0f} s."

                with signs_of_life(line) if silent else nullcontext():
                    yield report
        finally:
            spent = self.seconds.setdefault(label, {"wall": 0.0, "cpu": 0.0})
            spent["wall"] += time.perf_counter() - wall
            spent["cpu"] += time.process_time() - cpu
