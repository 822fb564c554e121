"""The Numba backend under threads, and a guard of its vectorisation."""

import threading
import time

import pytest
import torch

from fm3d_plugins.kernels.rasterizer import rasterize

WIDTH, HEIGHT = 90, 70


@pytest.fixture
def restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _render(scene):
    """Image, then the gradients of all tensors."""
    leaves = {k: v.clone().requires_grad_() for k, v in scene.items()}
    view = rasterize(**leaves, width=WIDTH, height=HEIGHT, sh_degree=3, backend="numba")
    (view.rgb**2).sum().backward()
    return [view.rgb.detach(), *(leaf.grad for leaf in leaves.values())]


def test_image_and_gradients_are_bitwise_equal_for_any_number_of_threads(
    restore_threads, random_scene
):
    scene = {k: v.float() for k, v in random_scene(3000, WIDTH, HEIGHT).items()}
    results = []
    for num_threads in (1, 2, 3, 7):
        torch.set_num_threads(num_threads)
        results.append(_render(scene))
    for result in results[1:]:
        for value, expected in zip(result, results[0], strict=True):
            assert torch.equal(value, expected)


def test_two_threads_may_render_at_once(restore_threads, random_scene):
    """A viewer renders while training goes on: no crash, no dead lock, nobody's result changes."""
    torch.set_num_threads(2)
    scenes = [
        {k: v.float() for k, v in random_scene(500, WIDTH, HEIGHT, seed=seed).items()}
        for seed in (1, 2)
    ]
    expected = [_render(scene) for scene in scenes]
    found = [[], []]

    def work(i):
        for _ in range(15):
            found[i].append(_render(scenes[i]))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    for results, truth in zip(found, expected, strict=True):
        assert len(results) == 15
        for result in results:
            assert all(torch.equal(a, b) for a, b in zip(result, truth, strict=True))


def test_kernels_are_at_least_five_times_as_fast_as_the_definition(restore_threads, random_scene):
    """Lost vectorisation costs a factor of ten; the ratio is 30 and more when all is well."""
    torch.set_num_threads(1)
    scene = {k: v.float() for k, v in random_scene(2000, 240, 135).items()}
    seconds = {"torch": [], "numba": []}
    for _ in range(4):
        for backend, measured in seconds.items():
            leaves = {k: v.clone().requires_grad_() for k, v in scene.items()}
            start = time.process_time()
            view = rasterize(**leaves, width=240, height=135, sh_degree=3, backend=backend)
            view.rgb.sum().backward()
            measured.append(time.process_time() - start)
    assert min(seconds["torch"]) > 5 * min(seconds["numba"])
