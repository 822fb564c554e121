"""`fm3d sample` as it is typed."""

import pytest

from fm3d_plugins.cli.main import main


def sample(folder, *more):
    size = ["--num-photos", "2", "--width", "48", "--height", "36"]
    main(["sample", "--output-dir", str(folder), *size, *more])


def test_sample_writes_a_capture_and_names_the_next_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample("sample")
    assert (tmp_path / "sample" / "transforms.json").is_file()
    assert len(list((tmp_path / "sample" / "images").iterdir())) == 2
    assert "Next: ns-train 3dgs --data sample sfm" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_folder_of_the_users_ends_in_one_message(tmp_path, more):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit, match="Error: .*sample (already holds 1|was not written by)"):
        sample(tmp_path / "sample", *more)
    assert (tmp_path / "sample" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "options",
    [
        ["--num-photos", "1"],
        ["--num-photos", "-3"],
        ["--num-photos", "1000000000"],
        ["--width", "0"],
        ["--height", "7"],
        ["--width", "100000"],
        ["--seed", str(1 << 64)],
    ],
)
def test_bad_options_are_refused_before_anything_is_said_or_written(tmp_path, capsys, options):
    with pytest.raises(SystemExit, match="Error: .*Expected"):
        sample(tmp_path / "sample", *options)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "sample").exists()


def test_a_refused_folder_is_refused_before_anything_is_said(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit, match="Error: "):
        sample(tmp_path)
    assert capsys.readouterr().out == ""


def test_overwrite_replaces_an_earlier_sample(tmp_path):
    sample(tmp_path / "sample")
    before = (tmp_path / "sample" / "images" / "frame_0001.jpg").read_bytes()
    sample(tmp_path / "sample", "--overwrite", "--seed", "1")
    assert (tmp_path / "sample" / "images" / "frame_0001.jpg").read_bytes() != before


def test_help_tells_every_option_with_its_unit(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    text = capsys.readouterr().out
    for word in ("--output-dir", "--num-photos", "--width", "--height", "--seed", "--overwrite"):
        assert word in text
    assert "Pixels" in text


def test_a_contact_sheet_is_written_in_place_of_a_capture(tmp_path, capsys):
    from PIL import Image

    main(["sample", "--contact-sheet", str(tmp_path / "sheet.png"), "--num-photos", "1"])
    assert Image.open(tmp_path / "sheet.png").size == (768, 96)
    with pytest.raises(SystemExit, match="neither of --output-dir and --contact-sheet"):
        main(["sample"])
