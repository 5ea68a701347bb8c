"""Experts are numbered at will: with other numbers, each has the same figures, and whole layers keep theirs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from labels import labelled

from moeviz.metrics import co_activation, coverage, load, locality, specialization, vocabulary
from moeviz.testing import sample_trace

MEASURES = (
    co_activation.co_activation,
    coverage.experts_needed,
    coverage.experts_touched,
    load.balance,
    load.expert_load,
    locality.locality,
    specialization.label_divergence,
    specialization.label_information,
    specialization.load_by_label,
    vocabulary.token_kinds,
    vocabulary.top_tokens,
    vocabulary.vocabulary_by_layer,
    vocabulary.vocabulary_specialization,
)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_relabelling_experts_permutes_their_rows_and_changes_nothing_else(measure):
    trace = labelled(sample_trace(tokens=200))
    trace = replace(trace, tokens=trace.tokens.assign(sequence=np.arange(200, dtype=np.int32) // 4))
    names = np.random.default_rng(1).permutation(8).astype(np.int16)
    before, after = measure(trace), measure(replace(trace, experts=names[trace.experts], logits=None))
    of_experts = [column for column in ("expert", "partner") if column in before]
    before = before.assign(**{column: names[before[column]] for column in of_experts})
    if of_experts:  # of equal loads, the lower number has the higher rank
        before, after = (frame.drop(columns="rank", errors="ignore") for frame in (before, after))
        keys = [column for column in before if before[column].dtype.kind not in "f"]
        before, after = (frame.sort_values(keys, ignore_index=True) for frame in (before, after))
    pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-5)
