"""What is counted beside other threads that run the model: an evaluator, a sampler, the replicas of DataParallel."""

import sys
from threading import Barrier, Event, Thread, get_ident

import numpy as np
import pytest
import torch
from training_runs import collate, recount, tiny, windows

from moeviz.training import RoutingHealth

LONGEST = 60  # seconds that a thread waits for the others before the test fails


def run_beside(*jobs):
    """Run jobs in threads of their own, to their ends; what goes wrong in one is raised here."""
    wrong = []

    def guarded(job):
        try:
            job()
        except BaseException as error:
            wrong.append(error)

    threads = [Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def replicas(model, count):
    """As `torch.nn.parallel.replicate` makes them, which wants GPUs: with shared hooks and copied weights."""
    made = []
    for _ in range(count):
        of = {module: module._replicate_for_data_parallel() for module in model.modules()}
        for module, replica in of.items():
            for name, child in module._modules.items():
                setattr(replica, name, None if child is None else of[child])
            for name, parameter in module._parameters.items():
                setattr(replica, name, None if parameter is None else parameter.clone())
        made.append(of[model])
    return made


def train_replicas(model, batches):
    """A step of DataParallel, without its optimizer."""
    losses, made = [], replicas(model, len(batches))
    run_beside(*[lambda at=at: losses.append(made[at](**batches[at]).loss) for at in range(len(batches))])
    sum(losses).backward()


def test_forwards_that_another_thread_runs_between_two_layers_are_not_those_that_are_counted():
    model, batch, other = tiny().train(), collate(windows(count=4, ragged=True)), collate(windows(count=2, seed=1))
    main = get_ident()

    def evaluate():
        with torch.no_grad():
            model(**other)

    def interrupt(*_):
        if get_ident() == main:
            run_beside(evaluate, evaluate)

    with RoutingHealth(model) as health:
        model.model.layers[1].input_layernorm.register_forward_pre_hook(interrupt)
        model(**batch).loss.backward()
        health.step()
        health.settle()
        np.testing.assert_array_equal(health._settled.counts[:, :-1], recount(tiny(), batch))
        health.report()
        assert health.said == []


def test_replicas_of_dataparallel_train_the_model_so_they_count():
    model, batch = tiny().train(), collate(windows(count=8, ragged=True))
    parts = [{name: rows[start : start + 2] for name, rows in batch.items()} for start in range(0, 8, 2)]
    together = Barrier(len(parts))

    def meet(*_):
        together.wait(LONGEST)

    with RoutingHealth(model) as health:
        model.model.layers[1].input_layernorm.register_forward_pre_hook(meet)
        train_replicas(model, parts)
        health.step()
        health.settle()
        np.testing.assert_array_equal(health._settled.counts[:, :-1], recount(tiny(), batch))
        assert health._settled.aux[1] == len(parts) and model.model.layers[0].mlp.gate.weight.grad.any()
        health.report()
        assert health.said == []


@pytest.mark.parametrize(("replicated", "steps"), [(False, 300), (True, 100)])
def test_steps_beside_a_thread_that_evaluates_are_counted_as_by_hooks_of_ones_own(replicated, steps):
    model = tiny(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1).train()
    ids = torch.randint(64, (4, 4), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part, "labels": part} for part in ids.split(2)]
    optimizer, ended = torch.optim.SGD(model.parameters(), 0.01), Event()
    own, evaluated, found = [], [], 0

    def note(_router, _given, answer):
        if torch.is_grad_enabled():
            own.append(answer[2].flatten())

    def evaluate():
        while not ended.is_set():
            with torch.no_grad():
                model(input_ids=ids[:1])
            evaluated.append(1)

    def train():
        nonlocal found
        try:
            for step in range(1, steps + 1):
                if replicated:
                    train_replicas(model, batches)
                else:
                    model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                health.step()
                if step % 100 == 0:
                    health.settle()
                    found = found + health._settled.counts
                    health.report()
        finally:
            ended.set()

    model.model.layers[0].mlp.gate.register_forward_hook(note)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with RoutingHealth(model) as health:
            beside = Thread(target=evaluate)
            beside.start()
            train()
            beside.join()
            assert health.said == []
    finally:
        sys.setswitchinterval(before)
    np.testing.assert_array_equal(found[0, :-1], torch.cat(own).bincount(minlength=8))
    assert found[0, -1] == steps * ids.numel() and evaluated
