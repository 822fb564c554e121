"""config.yml is read without running what stands in it: only configs, paths and plain values."""

import os
import sys
import time
from pathlib import Path, PureWindowsPath

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig

from fm3d_plugins.cli.run_configs import LARGEST, MOVED, read_run_config

OURS = ("3dgs", "nerf", "nerf-vanilla", "vggt", "dust3r", "lvsm", "rayzer")


def dumped(config, tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(yaml.dump(config), "utf8")
    return path


@pytest.mark.parametrize("method", [*OURS, "nerfacto", "splatfacto", "instant-ngp", "tensorf"])
def test_configs_of_methods_are_read_as_they_were_written(method, tmp_path):
    """Truth: what nerfstudio's own loader, which runs tags, makes of the same file."""
    path = dumped(all_methods[method], tmp_path)
    found = read_run_config(path)
    assert yaml.dump(found) == path.read_text()
    assert type(found) is type(yaml.load(path.read_text(), Loader=yaml.UnsafeLoader))


def test_configs_that_were_saved_before_classes_moved_are_read(tmp_path):
    """Also by nerfstudio's own loader, which takes what the old module imports."""
    path = dumped(all_methods["3dgs"], tmp_path)
    text = path.read_text()
    for earlier, now in MOVED.items():
        assert f"python/object:{now}\n" in text
        text = text.replace(now, earlier)
    path.write_text(text)
    for found in (read_run_config(path), yaml.load(text, Loader=yaml.UnsafeLoader)):
        assert yaml.dump(found) == yaml.dump(all_methods["3dgs"])


def trap(tmp_path):
    """A file that hostile tags would make, and the command for it."""
    made = tmp_path / "made_by_the_config"
    return made, f"touch {made}"


HOSTILE = [
    "!!python/object/apply:os.system ['{command}']",
    "!!python/object/apply:posix.system ['{command}']",
    "!!python/object/new:os.system ['{command}']",
    "!!python/object/apply:subprocess.Popen [['touch', '{made}']]",
    "!!python/object/apply:subprocess.check_output [['touch', '{made}']]",
    '!!python/object/apply:builtins.eval [\'open("{made}", "w")\']',
    "!!python/object/apply:builtins.open ['{made}', 'w']",
    "!!python/object/apply:pathlib.Path.touch ['{made}']",
    "!!python/object/apply:nerfstudio.utils.scripts.run_command ['{command}']",
    "!!python/object/apply:nerfstudio.utils.scripts.subprocess.run [['touch', '{made}']]",
    "!!python/object/apply:fm3d_plugins.atomic.os.system ['{command}']",
    "!!python/object/apply:fm3d_plugins.cli.main.main [['sample', '--output-dir', '{made}']]",
    "!!python/object/apply:torch.storage._load_from_bytes [!!binary aGVsbG8=]",
    "!!python/object/apply:torch.load ['{made}']",
    "!!python/object/new:type {{args: ['z', !!python/tuple [], {{'extend': "
    "!!python/name:exec }}], listitems: '{command}'}}",
    "!!python/object/apply:pathlib.PosixPath {{args: ['{made}'], state: {{a: 1}}}}",
    "!!python/object/apply:pathlib.PosixPath [!!python/name:os.system '']",
    "!!python/module:antigravity ''",
    "!!python/name:os.system ''",
    "!!python/name:nerfstudio.utils.scripts.run_command ''",
    "!!python/name:nerfstudio.engine.trainer.os ''",
    "!!python/name:torch.optim.adam.torch ''",
    "!!python/object:http.server.HTTPServer {{a: 1}}",
    "!!python/object:nerfstudio.engine.trainer.Trainer {{a: 1}}",
    "!!python/object:fm3d_plugins.no_such_module.Config {{a: 1}}",
    "!!python/object/apply:nerfstudio.engine.trainer.Trainer [1]",
    "!!python/object/apply:nerfstudio.engine.trainer.TrainerConfig []",
    "!!python/object/apply:nerfstudio.utils.writer.EventName [no such]",
    "!unknown 5",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("place", ["all", "value", "key", "target"])
def test_what_a_config_does_not_hold_is_refused_and_not_run(hostile, place, tmp_path):
    made, command = trap(tmp_path)
    tag = hostile.format(command=command, made=made)
    text = yaml.dump(all_methods["3dgs"])
    path = tmp_path / "config.yml"
    if place == "all":
        text = tag
    elif place == "value":
        text = text.replace("project_name: nerfstudio-project", f"project_name: {tag}")
    elif place == "key":
        text = f"? {tag}\n: 1"
    else:
        text = text.replace("!!python/name:fm3d_plugins.training.Trainer ''", tag)
    assert tag in text
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yml") as caught:
        read_run_config(path)
    assert "\n" not in str(caught.value)
    assert not made.exists()


def test_refusal_names_what_was_found_and_where(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text("a: 1\nb: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match=r"config\.yml, line 2: .*os\.system.*Nothing of it was"):
        read_run_config(path)


def test_modules_of_others_are_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for tag in ("name", "object", "object/apply"):
        (tmp_path / "config.yml").write_text(f"!!python/{tag}:hostile_module.Config []")
        with pytest.raises(ValueError, match="hostile_module.Config"):
            read_run_config(tmp_path / "config.yml")
    assert "hostile_module" not in sys.modules


def test_target_that_is_no_class_is_refused(tmp_path):
    text = yaml.dump(all_methods["3dgs"])
    for value in ("5", "null", "!!python/name:nerfstudio.data.utils.nerfstudio_collate."
                  "nerfstudio_collate ''"):  # fmt: skip
        path = tmp_path / "config.yml"
        path.write_text(text.replace("!!python/name:fm3d_plugins.training.Trainer ''", value))
        with pytest.raises(ValueError, match="SceneTrainerConfig is no class"):
            read_run_config(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds nothing"),
        (b"a: 1", "holds a dict"),
        (b"- 1", "holds a list"),
        (b"5", "holds a int"),
        (b"a: [", "expected"),
        (b"\xff\xfe\x00", "config.yml"),
        (b"a: \x00", "config.yml"),
        (b"[" * 100_000, "config.yml"),
        (b"&a [*a]", "config.yml"),
        (b"!!timestamp 5", "config.yml"),
        (b"!!float abc", "config.yml"),
        (b"!!int abc", "config.yml"),
        (b"!!binary a", "config.yml"),
        (b"!!bool abc", "config.yml"),
        (b"!!python/tuple a", "tuple"),
        (b"a: 1" + b" " * LARGEST, "bytes"),
        (b"!!python/object:nerfstudio.engine.trainer.TrainerConfig 5", "no config class"),
        (b"!!python/object:nerfstudio.engine.trainer.TrainerConfig {pipeline: 5}", "pipeline of"),
        (b"!!python/object:nerfstudio.engine.trainer.TrainerConfig {machine: [1]}", "machine of"),
    ],
)
def test_what_is_no_config_ends_with_one_line_that_names_the_file(content, said, tmp_path):
    path = tmp_path / "config.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yml") as caught:
        read_run_config(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_config_is_read_or_refused_by_name(tmp_path):
    text = yaml.dump(all_methods["3dgs"])
    path = tmp_path / "config.yml"
    for end in range(0, len(text), 97):
        path.write_text(text[:end])
        try:
            assert isinstance(read_run_config(path), TrainerConfig)
        except ValueError as error:
            assert str(path) in str(error)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "config.yml")
    start = time.monotonic()
    with pytest.raises(ValueError, match="is a named pipe"):
        read_run_config(tmp_path / "config.yml")
    assert time.monotonic() - start < 5
    with pytest.raises(ValueError, match="is a folder"):
        read_run_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no"):
        read_run_config(tmp_path / "absent.yml")


def test_lacking_fields_get_their_defaults_and_strange_ones_are_left_out(tmp_path, capsys):
    path = tmp_path / "config.yml"
    path.write_text(
        "!!python/object:nerfstudio.engine.trainer.TrainerConfig\n"
        "method_name: 3dgs\nsetup: 5\nno_such_field: 1\n"
    )
    config = read_run_config(path)
    assert config.method_name == "3dgs" and callable(config.setup)
    assert config.steps_per_save == TrainerConfig(method_name="").steps_per_save
    assert "no fields no_such_field, setup: left out" in capsys.readouterr().out


def test_a_field_without_a_default_is_asked_for(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text("!!python/object:nerfstudio.configs.base_config.InstantiateConfig {}")
    with pytest.raises(ValueError, match="InstantiateConfig lacks its field _target"):
        read_run_config(path)


def test_paths_of_every_system_are_read(tmp_path):
    config = TrainerConfig(method_name="3dgs", data=Path("/a b/ü"))
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(data=Path("c"))
    assert read_run_config(dumped(config, tmp_path)).data == Path("/a b/ü")
    config.data = PureWindowsPath("sub\\photos")
    assert read_run_config(dumped(config, tmp_path)).data == Path("sub/photos")
