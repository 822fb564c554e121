"""`fm3d export-cameras`: the cameras of a trained run, optimised or not, as files."""

from pathlib import Path


def command(load_config: Path, output_dir: Path, overwrite: bool = False) -> None:
    """Write the cameras of a trained run as transforms.json and colmap/sparse/0.

    Training cameras as optimised, held-out cameras moved along with them, in the frame, at the
    photo size and with the lens distortion of the run's input.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        output_dir: Folder to write; must not exist, or be empty.
        overwrite: Replace the output folder if this command wrote it before.

    Raises:
        FileNotFoundError: There is no such run.
        FileExistsError: The output folder holds something, or what would be lost.
        ValueError: The run has no cameras that these files can hold.
    """
    from fm3d_plugins.atomic import atomic_directory
    from fm3d_plugins.camera_optimization.export import run_cameras, write_cameras
    from fm3d_plugins.cli.runs import files_of, find_run, load_run, run_inputs
    from fm3d_plugins.progress import say

    load_config = find_run(load_config)
    inputs = run_inputs(load_config)
    with atomic_directory(output_dir, overwrite, inputs) as folder:
        config, pipeline = load_run(load_config)
        inputs += files_of(pipeline)
        optimizer = pipeline.model.camera_optimizer
        source = {"source": f"{config.method_name} run", "camera_optimizer": optimizer.config.mode}
        cameras = run_cameras(pipeline, source)
        write_cameras(cameras, folder)
    what = "optimised" if optimizer.is_on else "not optimised in this run"
    say(f"{len(cameras.scene)} cameras ({what}) are in {output_dir}")
