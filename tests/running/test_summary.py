"""What is said and written at the end of a run."""

import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace

from fm3d_plugins.running.summary import command_lines, stop_line, write_results


def test_commands_are_quoted_for_the_shell():
    config = Path("my run; rm -rf $HOME/it's/config.yml")
    for line in command_lines(config, is_scored=True, further={}):
        words = shlex.split(line.partition(":")[2])
        assert words[words.index("--load-config") + 1] == str(config)
    folder = Path("a b")
    assert shlex.split(stop_line(7, 7, folder))[-1] == "a b"


def test_nothing_to_score_again_is_offered_where_nothing_is_held_out():
    lines = command_lines(Path("config.yml"), is_scored=False, further={"Film": "fm3d film"})
    assert [line.split(":")[0] for line in lines] == ["Look around", "Film"]


def test_scores_have_the_shape_of_ns_eval_and_are_json(tmp_path):
    """nerfstudio 1.1.5, scripts/eval.py, writes these four entries."""
    config = SimpleNamespace(experiment_name="demo", method_name="3dgs")
    metrics = {"psnr": 20.0, "lpips": math.nan, "test_poses": "none"}
    write_results(tmp_path / "eval.json", config, Path("x.ckpt"), metrics)
    text = (tmp_path / "eval.json").read_text()
    content = json.loads(text, parse_constant=lambda word: 1 / 0)
    assert list(content) == ["experiment_name", "method_name", "checkpoint", "results"]
    assert content["results"] == {"psnr": 20.0, "test_poses": "none"}
