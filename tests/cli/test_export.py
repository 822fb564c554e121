"""Exports of a small run of `3dgs`: files that other programs read, refusals before long work."""

import pytest
import torch

from fm3d_plugins.cli import main as cli
from fm3d_plugins.cli.runs import load_run
from fm3d_plugins.io.ply import read_ply
from fm3d_plugins.io.transforms import read_transforms


def export(run, *words):
    cli.main(["export", "--load-config", str(run / "config.yml"), *map(str, words)])


def test_splats_lie_in_the_frame_of_the_photos(small_run, tmp_path, capsys):
    """Truth: nerfstudio's way from there to the model's frame, x -> scale * (R x + t)."""
    out = tmp_path / "splats.ply"
    export(small_run, "--output", out)
    points = read_ply(out).points
    _, pipeline = load_run(small_run / "config.yml")
    outputs = pipeline.datamanager.train_dataparser_outputs
    rows = outputs.dataparser_transform
    back = (points @ rows[:, :3].T + rows[:, 3]) * outputs.dataparser_scale
    torch.testing.assert_close(back, pipeline.model.means.detach(), atol=1e-4, rtol=1e-4)
    assert "in the frame and unit of the input" in " ".join(capsys.readouterr().out.split())


def test_mesh_and_points_are_of_the_depth_that_is_rendered(
    small_run, trained_once, tmp_path, monkeypatch
):
    """A model that shows a wall of its own at z = 1 of every camera, in nerfstudio's unit."""
    from fm3d_plugins.gaussian_splatting.model import GaussianSplattingModel

    def a_wall(model, camera):
        shape = (int(camera.height), int(camera.width))
        one = torch.ones(*shape, 1)
        return {"rgb": one.expand(*shape, 3), "depth": one, "accumulation": one}

    monkeypatch.setattr(
        GaussianSplattingModel,
        "surface_depth",
        lambda model, camera, outputs: outputs["depth"][..., 0],
    )
    monkeypatch.setattr(GaussianSplattingModel, "get_outputs_for_camera", a_wall)
    for what in ("points", "mesh"):
        export(small_run, "--what", what, "--output", tmp_path / f"{what}.ply")
    points, vertices = (read_ply(tmp_path / f"{w}.ply").points for w in ("points", "mesh"))
    truth = read_transforms(trained_once[0])
    _, pipeline = load_run(small_run / "config.yml")
    unit = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
    for found in (points, vertices):
        offsets = found.double()[:, None] - truth.world_from_camera[:, :3, 3]
        depth = (offsets * truth.world_from_camera[:, :3, 2]).sum(-1) * unit
        assert len(found) > 1000 and float((depth - 1).abs().amin(-1).quantile(0.9)) < 0.02


def test_what_does_not_go_together_is_refused(small_run, tmp_path):
    out = tmp_path / "out.ply"
    for words, message in (
        ([], "neither is given"),
        (["--output", out, "--output-dir", tmp_path / "folder"], "both is given"),
        (["--output-dir", tmp_path / "folder", "--what", "mesh"], "--what mesh is for a single"),
        (["--output-dir", tmp_path / "folder"], "--what mesh --output mesh.ply"),
        (["--output", out, "--voxel-size", "0"], "--voxel-size is 0"),
        (["--output", out, "--max-depth", "nan"], "--max-depth is nan"),
        (["--output", out, "--max-points", "0"], "--max-points is 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            export(small_run, *words)
    assert not out.exists() and not (tmp_path / "folder").exists()


@pytest.mark.parametrize("name", ["mesh.obj", "mesh.glb", "mesh"])
def test_a_name_of_another_format_is_refused(small_run, tmp_path, name):
    """PLY under it would be read by nobody."""
    with pytest.raises(SystemExit, match=r"does not end in \.ply"):
        export(small_run, "--what", "mesh", "--output", tmp_path / name)
    assert not list(tmp_path.glob("mesh*"))


def test_a_file_is_replaced_only_if_asked(small_run, tmp_path):
    out = tmp_path / "splats.ply"
    out.write_text("mine")
    with pytest.raises(SystemExit, match="exists.*--overwrite"):
        export(small_run, "--output", out)
    assert out.read_text() == "mine"
    export(small_run, "--output", out, "--overwrite")
    assert len(read_ply(out).points) > 1
    with pytest.raises(SystemExit, match="is an input"):
        export(small_run, "--output", small_run / "config.yml", "--overwrite")
