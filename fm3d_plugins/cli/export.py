"""`fm3d export`: points, cameras and depth of a feed-forward run, as files."""

from pathlib import Path


def command(
    load_config: Path,
    output_dir: Path,
    min_confidence: float = 0.0,
    overwrite: bool = False,
) -> None:
    """Write what a feed-forward run (vggt) found, in the frame and unit of its input.

    points.ply (with confidence), transforms.json (nerfstudio), colmap/sparse/0 (COLMAP, binary),
    depth/ (z-depth, thousandths of a scene unit) and depth_confidence/ (0 to 1), both .npy and
    one per photo. The folder is a posed scene: ns-train 3dgs --data FOLDER.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        output_dir: Folder to write; must not exist, or be empty.
        min_confidence: Leave out points of a lower confidence, 0 to 1. Depth maps stay whole.
        overwrite: Replace the output folder if this command wrote it before.

    Raises:
        FileNotFoundError: There is no such run.
        FileExistsError: The output folder holds something, or what would be lost.
        ValueError: It is no feed-forward run, or holds no such points.
    """
    from fm3d_plugins.atomic import atomic_directory
    from fm3d_plugins.cli.runs import files_of, find_run, load_run, run_inputs
    from fm3d_plugins.one_pass.geometry.export import write_run
    from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline
    from fm3d_plugins.progress import say

    load_config = find_run(load_config)
    inputs = run_inputs(load_config)
    with atomic_directory(output_dir, overwrite, inputs) as folder:
        config, pipeline = load_run(load_config)
        inputs += files_of(pipeline)
        if not isinstance(pipeline, GeometryPipeline):
            raise ValueError(
                f"{load_config} is a run of {config.method_name}, which has no points of its own. "
                "Expected a feed-forward run, such as vggt. Use fm3d export-cameras, or ns-export."
            )
        provenance = {"source": f"{config.method_name} run"}
        scene = write_run(pipeline, folder, provenance, min_confidence)
    say(f"{len(scene.points)} points, {len(scene)} cameras and their depth are in {output_dir}")
