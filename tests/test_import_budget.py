"""What every `ns-*` command pays for this package, and that importing it does nothing else."""

import subprocess
import sys

HEAVY = (
    "numba",
    "llvmlite",
    "pycolmap",
    "lpips",
    "safetensors",
    "filelock",
    "huggingface_hub",
    "scipy.spatial",
)
"""Modules that may be imported on first use only."""

SCRIPT = """
import sys
import nerfstudio.configs.dataparser_configs
import nerfstudio.engine.trainer, nerfstudio.plugins.types, nerfstudio.pipelines.base_pipeline
import nerfstudio.models.splatfacto, nerfstudio.data.datamanagers.full_images_datamanager
before = set(sys.modules)
import fm3d_plugins.method_configs.gaussian_splatting
import fm3d_plugins.method_configs.nerf
import fm3d_plugins.method_configs.vggt
import fm3d_plugins.method_configs.dust3r
import fm3d_plugins.dataparsers.estimated
import torch
print(sorted(set(sys.modules) - before))
print("INITIALIZED", torch.cuda.is_initialized())
"""


def test_config_modules_import_nothing_heavy_and_touch_no_gpu():
    """Only what nerfstudio has not imported itself counts."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=300
    )
    added, state = done.stdout.strip().splitlines()[-2:]
    imported = [name for name in HEAVY if f"'{name}'" in added]
    assert not imported, imported
    assert state == "INITIALIZED False"
