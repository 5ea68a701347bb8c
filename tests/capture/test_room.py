"""Whether a model fits: bytes by dtype, memory of machine and container, and the refusal."""

import pytest
import torch

from moeviz.capture.models import memory as room
from moeviz.errors import CaptureError


def test_weights_take_their_bits_and_a_tenth():
    assert room.bytes_needed(1000, "bfloat16") == 2200
    assert room.bytes_needed(1000, None) == room.bytes_needed(1000, "float32") == 4400


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 1,000 kB free, without a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  1000 kB\n")
    return tmp_path


def test_memory_is_the_machine_s_or_the_container_s_where_that_is_less(machine):
    assert room.bytes_free(None) == room.bytes_free("cpu") == room.bytes_free("auto") == 1000 * 1024
    (machine / "memory.current").write_text("100000\n")
    (machine / "memory.max").write_text("max\n")
    assert room.bytes_free("cpu") == 1000 * 1024
    (machine / "memory.max").write_text("300000\n")
    assert room.bytes_free("cpu") == 200_000


def test_gpus_count_alone_or_with_the_memory(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (5000 + i, 9000))
    assert room.bytes_free("cuda:1") == 5001
    assert room.bytes_free("cpu") == 1000 * 1024
    assert room.bytes_free("auto") == room.bytes_free(None) == 1000 * 1024 + 10_001


def test_a_model_that_does_not_fit_is_refused_with_both_figures(machine):
    room.check_fits("big/model", 200_000, "float32", "cpu")
    with pytest.raises(CaptureError, match=r"big/model.*0\.0 GB.*float32.*0\.0 GB"):
        room.check_fits("big/model", 300_000, "float32", "cpu")
    (machine / "meminfo").unlink()
    room.check_fits("big/model", 10**12, "float32", "cpu")  # nobody says what is free
