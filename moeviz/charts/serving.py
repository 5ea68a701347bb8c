"""Charts of what a routing costs to serve: caches, batches, prefetching, placement, and cards that hold a model."""

from moeviz.charts.chart import Chart
from moeviz.charts.serving_curves import distinct_experts_curve, hit_rate_curve, prefetch_curve
from moeviz.charts.serving_planes import cards_that_fit, placement_plane
from moeviz.serving.batches import batch_coverage, batch_coverage_caption
from moeviz.serving.budget import hit_rates, hit_rates_caption
from moeviz.serving.memory import what_fits
from moeviz.serving.placement import serving_placement, serving_placement_caption
from moeviz.serving.prefetch import prefetch_recall

CACHE = Chart(
    "How much memory for experts buys how many hits?",
    "Each line is a rule for what stays in fast memory, and its height is the share of a token's experts that are "
    "already there. Read it against the dashed line, a random set of experts; no rule that fetches experts when they "
    "are needed can pass the dotted one. Where LRU is above the most used, recency counts for more than popularity.",
    measure=hit_rates,
    draw=hit_rate_curve,
    say=hit_rates_caption,
)
BATCH = Chart(
    "How many experts does a batch of tokens need?",
    "Each line counts the different experts that a batch needs of a layer, whose weights a step must read. The dashed "
    "line is what tokens would need if each chose its experts at random.",
    measure=batch_coverage,
    draw=distinct_experts_curve,
    say=batch_coverage_caption,
)
PREFETCH = Chart(
    "How many of a token's experts can be fetched ahead?",
    "Each line names experts before the router has run, by what it learnt on the first half of the tokens, and its "
    "height is the share of the experts of the second half that it named. The dashed line names experts at random.",
    measure=prefetch_recall,
    draw=prefetch_curve,
    say=None,  # its numbers are shares without counts, and of a short text a predictor does well by luck
)
PLANE = Chart(
    "Which placement on devices costs what?",
    "Each large mark is a way to place the experts on devices, the mean over layers, and each small one a layer. "
    "Further left means less traffic between devices, further down a more even load; plans were made from the first "
    "half of the tokens and judged on the second.",
    measure=serving_placement,
    draw=placement_plane,
    say=serving_placement_caption,
)
FITS = Chart(
    "Which cards hold the model?",
    "Each cell is how many cards of that kind it takes for the weights, with the keys and values of so many sequences "
    "of so many tokens. It is an estimate from the model's configuration, and leaves a tenth of each card free.",
    measure=what_fits,
    draw=cards_that_fit,
    say=None,  # it is arithmetic on the model's sizes: every cell is an answer
)
OF_TRACES = (CACHE, PLANE, BATCH, PREFETCH)  # without a budget, rates by experts; on as many devices as is usual
CHARTS = (*OF_TRACES, FITS)
