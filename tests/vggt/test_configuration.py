import pytest

from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.configuration import from_text, to_text
from fm3d_plugins.vggt.dense_head import DenseHeadConfig
from fm3d_plugins.vggt.track_head import TrackHeadConfig


def test_sizes_survive_the_text():
    dense = DenseHeadConfig(features=32, channels=(8, 16, 24, 32), layers=(0, 1, 2, 3))
    parts = {
        "aggregator": AggregatorConfig(width=64, depth=4, mlp_ratio=3.5),
        "camera": None,
        "depth": dense,
        "tracks": TrackHeadConfig(maps=dense, rounds=2),
    }
    assert from_text(to_text(parts)) == parts


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "JSON|Expecting"),
        ('{"brain": {}}', "no part 'brain'"),
        ('{"aggregator": {"colour": 3}}', "no size 'colour'"),
        ('{"aggregator": {"depth": "many"}}', "depth is 'many'"),
        ('{"depth": {"layers": [1, 2]}}', "expected 4 values"),
        ('{"depth": {"layers": [1, 2, 3, true]}}', "layers is True"),
        ("[1]", "no object"),
        ('{"depth": 3}', "int"),
    ],
)
def test_text_that_is_no_description_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        from_text(text)
