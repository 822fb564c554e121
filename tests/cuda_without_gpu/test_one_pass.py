"""`ns-train vggt` on the pretended device: estimated, shown by stand-ins for gsplat, exported."""

from dataclasses import replace

import torch

from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.one_pass.geometry.export import write_run


def test_points_are_found_held_and_scored_on_the_device(
    gsplat_kernels, cuda, configured, vggt_weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    config = configured("vggt", steps=None)
    estimator = Vggt(weights=str(vggt_weights), resolution=56, drop_sky=False, consistent_views=0)
    dataparser = config.pipeline.datamanager.dataparser
    config.pipeline.datamanager.dataparser = replace(dataparser, estimator=estimator)
    config.pipeline.test_poses = "photometric:1"
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    model = trainer.pipeline.model
    assert all(buffer.is_cuda for buffer in model.buffers())
    assert set(gsplat_kernels.calls) >= {"project", "composite", "project back"}
    model.show_from(float(model.splat_confidence.median()))
    camera = model.kwargs["metadata"]["given_cameras"][:1].to("cuda")
    outputs = model.eval().get_outputs_for_camera(camera)
    assert all(values.is_cuda for values in outputs.values())
    assert all(values.is_cuda for values in model.gauss_params.values())
    written = write_run(trainer.pipeline, tmp_path, {}, 0.0)
    assert type(written.points) is torch.Tensor
