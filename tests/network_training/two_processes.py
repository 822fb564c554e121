"""What each of two processes does in `test_processes.py`, and one alone to compare with."""

import copy
import os
import signal
import sys
from pathlib import Path

import torch

from fm3d_plugins.dust3r.network import DUSt3RConfig
from fm3d_plugins.lvsm.network import LVSMConfig
from fm3d_plugins.method_configs import dust3r_train, lvsm_train, rayzer_train, vggt_train
from fm3d_plugins.network_training.processes import meet
from fm3d_plugins.nn import muon
from fm3d_plugins.nn.shards import whole
from fm3d_plugins.rayzer.network import RayZerConfig
from fm3d_plugins.vggt.training import SmallVGGT

METHODS = {
    "lvsm": (
        lvsm_train,
        LVSMConfig(width=16, head_width=8, patch_size=4, decoder_depth=2),
    ),
    "vggt": (
        vggt_train,
        SmallVGGT(width=16, depth=1, head_width=8, camera_rounds=2, dense_features=8),
    ),
    "dust3r": (
        dust3r_train,
        DUSt3RConfig(
            encoder_width=16, encoder_depth=1, encoder_heads=2, decoder_width=16, decoder_depth=1,
            decoder_heads=2, mlp_ratio=2, patch_size=8, head="linear", correlation=True,
        ),
    ),
    "rayzer": (
        rayzer_train,
        RayZerConfig(
            width=16, head_width=8, patch_size=4, camera_depth=1, scene_depth=1, decoder_depth=1,
            num_latents=8, num_views=4, num_contexts=2, correlation=True,
        ),
    ),
}  # fmt: skip

STEPS = 4
"""Of a run: RayZer's warm start is the first half, DUSt3R's matching learns at 0 and 3."""

LOOKED_AT = (0, 2)
"""Steps whose gradients are compared: in the second one some parameters rest."""

STOP = 1
"""Step after which one kind of processes leaves off and the other goes on."""

NUM_SCENES = 3
"""Not the same for both processes."""


def tiny_config(output: Path, name: str, shard: bool = False):
    """A run of seconds."""
    module, network = METHODS[name]
    config = copy.deepcopy(module.method.config)
    config.output_dir, config.timestamp, config.experiment_name = output, "run", name
    config.max_num_iterations, config.machine.device_type = STEPS, "cpu"
    config.steps_per_save = config.steps_per_eval_all_images = 1000
    config.vis = "none"
    config.pipeline.shard = shard
    model, manager = config.pipeline.model, config.pipeline.datamanager
    model.network, model.precision, model.ema_decay = network, "float32", 0.9
    if name == "rayzer":
        model.warm_start = 0.5
    manager.scenes_per_step, manager.held_out_scenes, manager.views_per_scene = NUM_SCENES, 2, 4
    manager.image_sizes, manager.size_shares = (16,), (1.0,)
    return config


def prepared(config):
    """A trainer before its first step; processes begin with other weights, as they may."""
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    config.resolve()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def gradients_of(trainer, step: int) -> dict:
    """Loss and whole gradients of a step, and the lenses by which its scenes are told apart."""
    lenses = trainer.pipeline.datamanager.batch(step).intrinsics[:, 0, 0, 0].tolist()
    trainer.optimizers.zero_grad_all()
    _, losses, _ = trainer.pipeline.get_train_loss_dict(step)
    losses["main_loss"].backward()
    trainer._gradients()
    named = trainer.pipeline.model.network.named_parameters()
    gradients = {name: None if p.grad is None else whole(p.grad).clone() for name, p in named}
    return {"loss": losses["main_loss"].item(), "gradients": gradients, "lenses": lenses}


def with_all_digits(*_) -> str:
    """In the place of Muon's choice: bfloat16 would make steps of a last digit."""
    return "float32"


def signal_at(trainer, step: int, number: signal.Signals) -> None:
    """Let this process get a signal when it begins with a step."""
    usual = trainer.train_iteration

    def with_signal(begun):
        if begun == step:
            os.kill(os.getpid(), number)
        return usual(begun)

    trainer.train_iteration = with_signal


def killed_once(folder: Path) -> None:
    """A run as ns-train makes it; the second process is killed in the first attempt."""
    config = tiny_config(folder, "lvsm")
    config.steps_per_save, config.timestamp = 1, "{timestamp}"
    config.set_timestamp()
    config.save_config()
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        signal_at(trainer, STOP + 1, signal.SIGKILL)
    trainer.train()


def main(folder: Path) -> None:
    """Gradients of all networks, whole and divided; a run that is gone on with, and one stopped.

    The second process is given a folder of its own, in which nothing is to appear.
    """
    rank = int(os.environ["RANK"])
    own = folder / f"rank{rank}"
    torch.set_num_threads(1)
    muon.choose_precision = with_all_digits
    meet("cpu", "run")
    found = {}
    for name in METHODS:
        for shard in (False, True):
            trainer = prepared(tiny_config(own, name, shard))
            found[name, shard] = [gradients_of(trainer, step) for step in LOOKED_AT]
    torch.save(found, folder / f"gradients{rank}.pt")

    config = tiny_config(own / "divided", "vggt", True)
    config.load_dir, config.load_step = (
        next((folder / "one" / "vggt").rglob("nerfstudio_models")),
        STOP,
    )
    trainer = prepared(config)
    trainer._take_steps()
    trainer._finish()

    trainer = prepared(tiny_config(own / "stopped", "lvsm", False))
    if rank == 1:
        signal_at(trainer, STOP, signal.SIGTERM)
    trainer.train()


if __name__ == "__main__":
    {"main": main, "killed_once": killed_once}[sys.argv[1]](Path(sys.argv[2]))
