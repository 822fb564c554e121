"""How kernels are spread over threads."""

import threading

import numpy as np
import pytest
import torch

from fm3d_plugins.kernels.threads import (
    _settings,
    get_num_threads,
    run_kernel,
    set_num_threads,
)


@pytest.fixture(autouse=True)
def three_threads():
    """torch's, and no number of the kernels' own, which a training run of other tests sets."""
    before, own = torch.get_num_threads(), _settings["num_threads"]
    torch.set_num_threads(3)
    set_num_threads(None)
    yield
    torch.set_num_threads(before)
    set_num_threads(own)


def test_every_item_is_done_once_and_by_no_more_threads_than_items():
    lock, items, workers = threading.Lock(), [], set()

    def kernel(counter, num_items, scale):
        while True:
            with lock:
                item = int(counter[0])
                counter[0] += 1
                workers.add(threading.get_ident())
            if item >= num_items:
                return
            items.append(scale * item)

    run_kernel(kernel, 2, 10)
    assert sorted(items) == [0, 10]
    assert len(workers) <= 2


def test_no_items_is_no_work():
    calls = []
    run_kernel(lambda counter, num_items: calls.append(num_items), 0)
    assert calls == [0]


def test_an_error_in_a_helper_reaches_the_caller():
    main = threading.get_ident()
    helper_started = threading.Event()

    def kernel(counter, num_items):
        if threading.get_ident() == main:
            helper_started.wait(timeout=10)
            return
        helper_started.set()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_kernel(kernel, 2)


def test_counter_starts_at_zero_each_time():
    seen = []
    torch.set_num_threads(1)
    for _ in range(2):
        run_kernel(lambda counter, num_items: seen.append(counter.copy()), 5)
    np.testing.assert_array_equal(seen, [[0], [0]])


def test_kernels_use_as_many_threads_as_torch_unless_told_otherwise():
    assert get_num_threads() == 3
    set_num_threads(5)
    torch.set_num_threads(1)
    assert get_num_threads() == 5
    set_num_threads(None)
    assert get_num_threads() == 1
    with pytest.raises(ValueError, match="num_threads is 0"):
        set_num_threads(0)
