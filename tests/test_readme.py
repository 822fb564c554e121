"""The commands of the README run as they are written, in their order, on a small capture."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
BIN = Path(sys.executable).parent

EXCEPTED = {
    r"pip install|make ": "sets up, and is what runs these tests",
    r"ns-train splatfacto": "needs CUDA",
    r"ns-train (3dgs|lvsm|rayzer|dust3r|vggt) .*(vggt|lvsm|dust3r|rayzer)\b": "needs weights",
    r"ns-train (vggt|dust3r|lvsm|rayzer)": "needs weights",
    r"fm3d process (vggt|dust3r)": "needs weights",
    r"fm3d export .*--output-dir": "is for a run that needs weights",
    r"fm3d export .*--what mesh": "needs a scene that is trained for minutes",
    r"fm3d weights fetch": "needs the network",
    r"ns-viewer": "waits for visitors without end",
}
"""By regular expression: commands that are not run here, and why."""

CHEAP = r"fm3d (weights list|process sfm|eval-poses)"
"""Those that run whenever the tests do; `make test-slow` runs all."""

SHORT = {
    "ns-train": "--max-num-iterations 20 --vis tensorboard --viewer.quit-on-train-completion True",
    "fm3d film": "--frames 2 --num-keys 2",
    "fm3d sample": "--num-photos 3 --width 96 --height 72",
    "fm3d evaluate": "--test-poses none sim3 photometric:1",
    "ns-export pointcloud": "--num-points 1000",
}
"""What is added to commands, so that they end soon."""


def commands():
    """Every line of the README's blocks that is a command."""
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield shlex.join(words)


def reason_against(command):
    return next((why for pattern, why in EXCEPTED.items() if re.match(pattern, command)), None)


RUN = [command for command in commands() if reason_against(command) is None]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README's commands name: photos, a scene and a reference."""
    folder = tmp_path_factory.mktemp("readme")
    size = {"num_photos": 10, "width": 240, "height": 180}
    write_sample(folder / "reference", **size, quality=DRAFT, num_threads=1)
    shutil.copytree(folder / "reference" / "images", folder / "photos")
    shutil.copytree(folder / "reference", folder / "scene")
    return folder


def run(command, folder):
    """Run a command as it is written, with what shortens it behind its first option."""
    environment = os.environ | {"FM3D_CACHE_DIR": str(folder / "cache"), "FM3D_OFFLINE": "1"}
    words = command.split()
    method = "nerf" if "pointcloud" in words else "3dgs"
    if "CONFIG.yml" in words:
        found = (folder / "outputs" / "photos" / method).glob("*/config.yml")
        words[words.index("CONFIG.yml")] = str(next(found))
    more = next((text for start, text in SHORT.items() if command.startswith(start)), "")
    if words[0] == "ns-train":
        words[2:2] = more.split()
    else:
        words += more.split()
    if "--output-dir" in words:
        shutil.rmtree(folder / words[words.index("--output-dir") + 1], ignore_errors=True)
    command = [str(BIN / words[0]), *words[1:]]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    said = result.stdout + result.stderr
    assert result.returncode == 0, f"{shlex.join(words)}\n{said[-3000:]}"
    assert "Traceback" not in said
    return said


def test_commands_are_found_and_what_is_excepted_is_there():
    assert len(RUN) >= 15
    for pattern in EXCEPTED:
        assert any(re.match(pattern, command) for command in commands()), pattern


@pytest.mark.parametrize("command", [command for command in RUN if re.match(CHEAP, command)])
def test_cheap_command_runs(command, place):
    run(command, place)


@pytest.mark.slow
def test_all_commands_run_in_their_order(place):
    for command in RUN:
        run(command, place)
    made = ("scores.json", "result.png", "film.mp4", "exports", "cameras", "sample")
    assert [name for name in made if not (place / name).exists()] == []


@pytest.mark.slow
def test_a_run_goes_on_as_the_readme_says(place):
    (command,) = re.findall(r"`(ns-train 3dgs [^`]*--load-dir [^`]*)`", README)
    first = next(c for c in RUN if c.startswith("ns-train 3dgs --data photos/ sfm"))
    shutil.rmtree(place / "outputs", ignore_errors=True)
    run(first, place)
    (folder,) = (place / "outputs" / "photos" / "3dgs").iterdir()
    run(command.replace("TIME", folder.name), place)
    checkpoints = (place / "outputs").rglob("step-*.ckpt")
    assert sorted(path.name for path in checkpoints) == [
        "step-000000019.ckpt",
        "step-000000039.ckpt",
    ]
