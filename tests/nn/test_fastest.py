"""The choice between equal ways, by measurement."""

import json
import logging
import time

import pytest
import torch

from fm3d_plugins.nn import fastest as module
from fm3d_plugins.nn.fastest import fastest, processor


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder of caches, and a process that has asked nothing yet."""
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "chosen", {})
    monkeypatch.setattr(module, "SECONDS", 0.01)
    return tmp_path / "fastest.json"


def spend(seconds):
    """Use the processor for so long."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


class Question:
    """Two ways, told apart by what they cost; how often each was tried."""

    def __init__(self, **seconds):
        self.seconds, self.tried = seconds, dict.fromkeys(seconds, 0)

    def __call__(self):
        return {name: lambda name=name: self.run(name) for name in self.seconds}

    def run(self, name):
        self.tried[name] += 1
        spend(self.seconds[name])


def test_the_way_of_least_time_is_chosen():
    assert fastest("a", Question(torch=0.02, other=0.001)) == "other"
    assert fastest("b", Question(torch=0.001, other=0.02)) == "torch"


def test_between_ways_of_the_same_cost_torchs_own_stays(monkeypatch):
    monkeypatch.setattr(module, "LEAST_GAIN", 0.0)
    assert fastest("a", Question(torch=0.02, other=0.001)) == "torch"


def test_a_process_measures_once():
    question = Question(torch=0.001, other=0.01)
    fastest("a", question)
    tried = dict(question.tried)
    assert all(count >= 2 for count in tried.values())
    fastest("a", question)
    assert question.tried == tried


def test_another_process_reads_the_answer(cache):
    fastest("a", Question(torch=0.01, other=0.001))
    module.chosen.clear()
    question = Question(torch=0.001, other=0.01)
    assert fastest("a", question) == "other"
    assert question.tried == {"torch": 0, "other": 0}
    (place,) = json.loads(cache.read_text())
    assert processor() in place and torch.__version__ in place
    assert f"{torch.get_num_threads()} threads" in place


def test_another_number_of_threads_is_another_question():
    question, threads = Question(torch=0.001, other=0.01), torch.get_num_threads()
    fastest("a", question)
    tried = dict(question.tried)
    torch.set_num_threads(threads + 1)
    try:
        fastest("a", question)
    finally:
        torch.set_num_threads(threads)
    assert question.tried["other"] > tried["other"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b'{"x": 1}', b'{"PLACE": {"a": "magic"}}',
     b'{"PLACE": {"a": []}}', b"[" * 100_000, b'{"PLACE": {"b": "other"}}'],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_measured_anew_and_replaced(content, cache):
    fastest("a", Question(torch=0.001, other=0.01))
    (place,) = json.loads(cache.read_text())
    module.chosen.clear()
    cache.write_bytes(content.replace(b"PLACE", place.encode()))
    assert fastest("a", Question(torch=0.01, other=0.001)) == "other"
    assert json.loads(cache.read_text())[place]["a"] == "other"


def test_other_answers_in_the_file_are_kept(cache):
    cache.write_text(json.dumps({"another machine": {"a": "other"}}))
    fastest("a", Question(torch=0.001, other=0.01))
    fastest("b", Question(torch=0.01, other=0.001))
    answers = json.loads(cache.read_text())
    assert answers.pop("another machine") == {"a": "other"}
    assert list(answers.values()) == [{"a": "torch", "b": "other"}]


def test_a_folder_that_cannot_be_written_is_no_error(cache, monkeypatch):
    cache.with_name("file").write_text("")
    monkeypatch.setenv("FM3D_CACHE_DIR", str(cache.with_name("file") / "below"))
    assert fastest("a", Question(torch=0.01, other=0.001)) == "other"


def test_one_line_of_debugging_tells_the_choice_and_both_times(caplog):
    with caplog.at_level(logging.DEBUG, logger=module.__name__):
        fastest("a", Question(torch=0.01, other=0.001))
        fastest("a", Question(torch=0.01, other=0.001))
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "a: other, by torch 10.0 ms, other 1.0 ms" in record.message
