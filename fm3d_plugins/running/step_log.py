"""The course of training on the console: nerfstudio's table on a terminal, plain lines in a log."""

import contextlib
import time
from dataclasses import dataclass, field

from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.nn.planning import duration
from fm3d_plugins.progress import say

OFTEN_SECONDS, SELDOM_SECONDS = 10.0, 30.0
"""From one line to the next: of the first lines, and of all others."""

NUM_OFTEN = 12
"""How many lines come often, until it is clear how the run goes."""


@dataclass
class StepLogConfig(LocalWriterConfig):
    """What is printed about the steps."""

    _target: type = field(default_factory=lambda: StepLog)
    enable: bool = True
    """Print the course of training: a table on a terminal, elsewhere a line now and then."""


def step_logging() -> LoggingConfig:
    """nerfstudio's options of a log, with this package's lines and no profile at the end."""
    return LoggingConfig(local_writer=StepLogConfig(), profiler="none")


def end_earlier_logs() -> None:
    """Let what an earlier run in this process logs with write no more, neither in its folder nor on
    the console."""
    for each in writer.EVENT_WRITERS:
        if isinstance(each, writer.TensorboardWriter):
            with contextlib.suppress(OSError):  # Its folder may be gone.
                each.tb_writer.close()
    writer.EVENT_WRITERS.clear()


class StepLog(writer.LocalWriter):
    """nerfstudio moves the cursor of a terminal up and prints its table anew, ten lines each time;
    where there is no terminal, one line every few seconds says the same."""

    _last: tuple[float, int] | None = None
    _first_step = 0
    _num_lines = 0
    _psnr: float | None = None

    def write_stats_log(self, step: int) -> None:
        """Called after every step, with its events still in nerfstudio's storage."""
        if CONSOLE.is_terminal:
            super().write_stats_log(step)
            return
        num_steps = writer.GLOBAL_BUFFER.get("max_iter")
        if num_steps is None:
            return  # Methods that optimise nothing have no steps.
        for event in writer.EVENT_STORAGE:
            if event["name"] == writer.EventName.CURR_TEST_PSNR.value:
                self._psnr = float(event["event"])
            # The first of them may be the configuration, of step 0 also where a run goes on.
            step = max(step, event.get("step", step))
        now = time.monotonic()
        if self._last is None:
            self._last, self._first_step = (now, step), step
            return
        before, last = self._last
        pause = OFTEN_SECONDS if self._num_lines < NUM_OFTEN else SELDOM_SECONDS
        if step > last and now - before >= pause:
            end = self._first_step + num_steps
            say(step_line(step + 1, end, (now - before) / (step - last), self._psnr))
            self._last, self._num_lines = (now, step), self._num_lines + 1


def step_line(done: int, end: int, seconds: float, psnr: float | None) -> str:
    """How far training is.

    Args:
        done: Steps that are done.
        end: Steps of the whole run.
        seconds: Of one step.
        psnr: Of held-out photos, dB, as far as it is known.
    """
    left = duration(seconds * (end - done))
    scored = "" if psnr is None else f", held-out PSNR {psnr:.1f} dB"
    share = f"{100 * done / max(1, end):.0f} %"
    return f"Step {done} of {end} ({share}), {1000 * seconds:.0f} ms each, {left} left{scored}."
