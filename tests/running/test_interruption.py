"""Signals wait for a good moment, once."""

import os
import signal

import pytest

from fm3d_plugins.running.interruption import Interruption, exit_status


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted_and_the_second_ends_at_once(number, status):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.signal is None
        os.kill(os.getpid(), number)
        assert interruption.signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            signal.pause()
    assert signal.getsignal(number) is before
    assert exit_status(number) == status
