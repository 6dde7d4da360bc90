"""The memory of a stack: estimated, kept within what is free, and told apart from other errors."""

import pytest
import torch
from benches import bench_of

from trainlab.sweeps.execute import memory, planner


def test_what_a_run_takes_is_a_sum_of_its_parts():
    bench = bench_of("optim=adam", "model.widths=[512,512]", "batch_size=1", "data.train_size=20")
    weights = 4 * sum(p.numel() for p in bench.fresh().model.parameters())
    # twice weights, best weights and two moments, once gradients and a copy; little else
    assert memory.per_run(bench) == pytest.approx(10 * weights, rel=0.25)
    averaged = bench_of("optim=adam", "model.widths=[512,512]", "batch_size=1",
                        "data.train_size=20", "average.ema=0.9")  # fmt: skip
    more = memory.per_run(averaged) - memory.per_run(bench)
    assert more == pytest.approx(2 * weights, rel=0.01)
    small = memory.per_run(bench_of("optim=sgd", "model.widths=[512,512]"))
    assert small < memory.per_run(bench)


def test_a_stack_is_kept_within_what_is_free(tmp_path, monkeypatch):
    bench = bench_of("model.widths=[8]", "data.train_size=64")
    monkeypatch.setattr(memory, "available", lambda device: 20 * memory.per_run(bench))
    plan = planner.planned(bench, 64, 50, tmp_path / "plan.json")
    assert plan.size == 14 and "14 at a time (50 have no room), about" in plan.sentence
    assert planner.planned(bench, 64, 12, tmp_path / "plan.json").size == 12
    plan = planner.planned(bench, 64, None, tmp_path / "plan.json")
    assert plan.size <= 4  # 16 was not even tried
    assert "16:" not in plan.sentence


def test_a_plan_for_fewer_jobs_is_made_anew(tmp_path):
    bench, path = bench_of("model.widths=[8]", "data.train_size=64"), tmp_path / "plan.json"
    planner.planned(bench, 2, None, path)
    assert "as written" in planner.planned(bench, 1, None, path).sentence
    assert "ms a run and step" in planner.planned(bench, 3, None, path).sentence
    assert planner.halved(9, path) == 5
    assert planner.planned(bench, 3, None, path).size == 5


def test_free_memory_is_that_of_the_container(tmp_path, monkeypatch):
    whole = memory.available(torch.device("cpu"))
    assert 10**7 < whole < 10**14
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.available(torch.device("cpu")) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(torch.device("cpu")) > 10**7


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_too_little_memory_is_told_apart(error, is_memory):
    assert memory.too_little(error) == is_memory


def test_the_message_of_this_torch_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert memory.too_little(caught.value)
