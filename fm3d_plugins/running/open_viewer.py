"""The viewer of a run: who can open it, and who can close it."""

import os
import sys


def reach_of_viewer(host: str) -> str:
    """Who can open a viewer that listens on an address, and how to change it."""
    if host in ("127.0.0.1", "localhost", "::1"):
        return (
            "The viewer can be opened on this computer only. From another one: forward its port "
            "(ssh -L 7007:localhost:7007 HOST), or open it to the whole network with "
            "--viewer.websocket-host 0.0.0.0 (there is no password)."
        )
    return f"The viewer listens on {host}: everyone who reaches it can open it, without a password."


def can_be_stopped_by_hand() -> bool:
    """Whether somebody at a terminal sees this process and can press Ctrl-C.

    Not in a pipe, a script of cron, or a job in the background.
    """
    for stream in (sys.stdin, sys.stdout):
        if stream is None or stream.closed or not stream.isatty():
            return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # Windows has no groups of processes.
        return True
