"""A tiny run of every network, by the method's name."""

from fm3d_plugins.method_configs import dust3r_train, lvsm_train, rayzer_train, vggt_train
from tests.network_training.conftest import TINY as TINY_LVSM
from tests.network_training.conftest import tiny_config
from tests.network_training.test_dust3r_training import TINY as TINY_DUST3R
from tests.network_training.test_rayzer_training import DATA as RAYZER_DATA
from tests.network_training.test_rayzer_training import TINY as TINY_RAYZER
from tests.network_training.test_vggt_training import TINY as TINY_VGGT

SQUARE = {"image_sizes": (16,), "size_shares": (1.0,), "scenes_per_step": 2}
NETWORKS = {
    "dust3r": (TINY_DUST3R, dust3r_train.method, SQUARE),
    "lvsm": (TINY_LVSM, lvsm_train.method, SQUARE),
    "rayzer": (TINY_RAYZER, rayzer_train.method, {**SQUARE, **RAYZER_DATA}),
    "vggt": (TINY_VGGT, vggt_train.method, SQUARE),
}


def tiny_run(name, output, steps, **data):
    """The run of a network; `data` changes the datamanager's options."""
    network, method, own = NETWORKS[name]
    return tiny_config(output, steps, network, method, **{**own, **data})
