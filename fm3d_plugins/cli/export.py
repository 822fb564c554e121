"""`fm3d export`: splats, points or a mesh of a run, in the frame of its input."""

from pathlib import Path
from typing import Any, Literal

What = Literal["splats", "points", "mesh"]


def command(
    load_config: Path,
    output_dir: Path | None = None,
    what: What | None = None,
    output: Path | None = None,
    format: Literal["ply"] = "ply",  # noqa: A002 (the option's name)
    voxel_size: float | None = None,
    max_depth: float | None = None,
    max_points: int = 1_000_000,
    min_confidence: float = 0.0,
    overwrite: bool = False,
) -> None:
    """Write what a run found, in the frame and unit of its input.

    That is the frame of the poses in transforms.json, of the COLMAP model, or of the estimated
    scene; ns-export writes the one into which nerfstudio turns, centres and scales it.

    --what and --output: one PLY file. splats (3dgs): gaussians, as viewers of 3DGS read them.
    mesh (3dgs, nerf): the training photos' views are rendered with depth and fused (TSDF).
    points: of the same rendered depth, with colours; of a feed-forward run its own.

    --output-dir: all of a feed-forward run (vggt, dust3r). points.ply (with confidence),
    transforms.json (nerfstudio), colmap/sparse/0 (COLMAP, binary), depth/ (z-depth, thousandths
    of a scene unit) and depth_confidence/ (0 to 1), both .npy and one per photo. The folder is a
    posed scene: ns-train 3dgs --data FOLDER.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        output_dir: Folder to write for a feed-forward run; must not exist, or be empty.
        what: What to write into a single file. None: splats of 3dgs, a mesh of nerf, points of a
            feed-forward run.
        output: The file to write for --what, such as mesh.ply.
        format: Of that file.
        voxel_size: Side of a mesh's voxels, in the unit of the input. None: 1/320 of the scene's
            extent.
        max_depth: Depth in the unit of the input beyond which mesh and points tell nothing. None:
            four times the median.
        max_points: Points are evenly thinned out to this many.
        min_confidence: Leave out a feed-forward run's points of a lower confidence, 0 to 1. Depth
            maps stay whole.
        overwrite: Replace the file, or the folder if this command wrote it before.

    Raises:
        FileNotFoundError: There is no such run.
        FileExistsError: The output holds something, or what would be lost.
        ValueError: The run has not what is asked for, or options do not go together.
    """
    from fm3d_plugins.cli.runs import find_run

    if (output is None) == (output_dir is None):
        found = "neither" if output is None else "both"
        raise ValueError(
            f"Of --output and --output-dir {found} is given. Expected one: --output FILE.ply for "
            "splats, points or a mesh of 3dgs or nerf, --output-dir FOLDER for all of a "
            "feed-forward run. Name one of them."
        )
    for name, value in (("voxel-size", voxel_size), ("max-depth", max_depth)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} is {value}; expected more than 0. Give another.")
    if max_points < 1:
        raise ValueError(f"--max-points is {max_points}; expected at least 1. Give another.")
    load_config = find_run(load_config)
    if output_dir is not None:
        if what is not None:
            raise ValueError(
                f"--what {what} is for a single file, but --output-dir names a folder. Expected "
                "--output FILE.ply beside --what. Use it, or leave --what out."
            )
        _write_folder(load_config, output_dir, min_confidence, overwrite)
    elif output is not None:
        limits = (voxel_size, max_depth, max_points, min_confidence)
        _write_file(load_config, output, what, limits, overwrite)


def _write_folder(
    load_config: Path, output_dir: Path, min_confidence: float, overwrite: bool
) -> None:
    """All of a feed-forward run."""
    from fm3d_plugins.atomic import atomic_directory
    from fm3d_plugins.cli.runs import files_of, load_run, run_inputs
    from fm3d_plugins.one_pass.geometry.export import write_run
    from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline
    from fm3d_plugins.progress import say

    inputs = run_inputs(load_config)
    with atomic_directory(output_dir, overwrite, inputs) as folder:
        config, pipeline = load_run(load_config)
        inputs += files_of(pipeline)
        if not isinstance(pipeline, GeometryPipeline):
            raise ValueError(
                f"{load_config} is a run of {config.method_name}, which has no points of its own. "
                "Expected a feed-forward run, such as vggt. Use --what mesh --output mesh.ply (or "
                "splats, points) in place of --output-dir; fm3d export-cameras writes cameras."
            )
        provenance = {"source": f"{config.method_name} run"}
        scene = write_run(pipeline, folder, provenance, min_confidence)
    say(f"{len(scene.points)} points, {len(scene)} cameras and their depth are in {output_dir}")


def _write_file(
    load_config: Path,
    output: Path,
    what: What | None,
    limits: tuple[float | None, float | None, int, float],
    overwrite: bool,
) -> None:
    """One file of splats, points or a mesh.

    Args:
        limits: Voxel size, largest depth, most points, least confidence.
    """
    from fm3d_plugins.atomic import atomic_write, require_place
    from fm3d_plugins.cli.runs import files_of, load_run, run_inputs
    from fm3d_plugins.errors import listed
    from fm3d_plugins.parsed_scenes import moved_origin
    from fm3d_plugins.progress import say

    inputs = run_inputs(load_config)
    require_place(output, inputs)
    if output.suffix.lower() != ".ply":
        raise ValueError(
            f"--output {output} does not end in .ply, the format that is written. Expected "
            "FILE.ply. Choose such a name; other programs turn it into other formats."
        )
    if output.exists() and not overwrite:
        raise FileExistsError(
            f"{output} exists. Expected a new file. Choose another name, or replace it with "
            "--overwrite."
        )
    config, pipeline = load_run(load_config)
    inputs += files_of(pipeline)
    require_place(output, inputs)
    what = what or _usual(pipeline)
    _require_possible(what, str(config.method_name), pipeline)
    with atomic_write(output, inputs) as temporary:
        said = _write(what, pipeline, temporary, limits)
    origin = moved_origin(pipeline.datamanager.dataparser)
    moved = (
        "" if origin is None else f", its origin moved to ({listed(f'{x:.3f}' for x in origin)})"
    )
    say(f"{said} are in {output}, in the frame and unit of the input{moved}.")


def _usual(pipeline: Any) -> What:
    from fm3d_plugins.gaussian_splatting.pipeline import GaussianSplattingPipeline
    from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline

    if isinstance(pipeline, GaussianSplattingPipeline):
        return "splats"
    return "points" if isinstance(pipeline, GeometryPipeline) else "mesh"


def _require_possible(what: What, method: str, pipeline: Any) -> None:
    """Refuse what a method has not.

    Raises:
        ValueError: It has not what is asked for.
    """
    from fm3d_plugins.gaussian_splatting.pipeline import GaussianSplattingPipeline
    from fm3d_plugins.nerf.pipeline import NerfPipeline
    from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline

    possible: list[What] = []
    if isinstance(pipeline, GaussianSplattingPipeline):
        possible = ["splats", "points", "mesh"]
    elif isinstance(pipeline, NerfPipeline):
        possible = ["points", "mesh"]
    elif isinstance(pipeline, GeometryPipeline):
        possible = ["points"]
    if what not in possible:
        expected = " or ".join(possible) or "a run of 3dgs, nerf, vggt or dust3r"
        raise ValueError(
            f"A run of {method} has no {what} to export. Expected {expected}. Change --what, or "
            "train 3dgs (splats, mesh) or nerf (mesh) on the same photos."
        )


def _write(
    what: What,
    pipeline: Any,
    path: Path,
    limits: tuple[float | None, float | None, int, float],
) -> str:
    """Write a file; says what it holds."""
    from fm3d_plugins.gaussian_splatting.splats import moved_splats, splats_of
    from fm3d_plugins.io.splats import write_splats
    from fm3d_plugins.one_pass.geometry.export import confident_points
    from fm3d_plugins.one_pass.geometry.pipeline import GeometryPipeline
    from fm3d_plugins.parsed_scenes import input_frame
    from fm3d_plugins.surfaces.export import write_mesh, write_points

    voxel, farthest, most, least_confidence = limits
    manager = pipeline.datamanager
    frame = input_frame(manager.train_dataparser_outputs, manager.dataparser).inverse()
    if what == "splats":
        splats = moved_splats(splats_of(dict(pipeline.model.gauss_params.items())), frame)
        write_splats(path, splats)
        return f"{len(splats):,} splats"
    if isinstance(pipeline, GeometryPipeline):
        return f"{confident_points(pipeline, frame, path, least_confidence):,} points"
    if what == "points":
        return f"{write_points(pipeline, frame, path, farthest, most):,} points"
    vertices, faces = write_mesh(pipeline, frame, path, voxel, farthest)
    return f"{vertices:,} vertices and {faces:,} triangles"
