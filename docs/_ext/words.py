"""Words of the field beyond those that the app explains on its charts (`app/widgets/glossary.py`)."""

MORE = {
    "Mixture of Experts": "a model whose layers hold several experts, of which each token runs through a few.",
    "slot": "one of the k places of a token at a layer, which an expert fills; slot 0 is the highest weight.",
    "top-k": "the rule that a router chooses the k best-scored experts for each token; also the number k itself.",
    "routing": "which experts the routers chose for which tokens, and with which weights.",
    "trace": "the routing of a text, recorded: ids, weights, logits and tokens in one value, `RoutingTrace`.",
    "score function": "what turns a router's logits into scores: softmax over the experts, or a sigmoid for each.",
    "selection bias": "a number for each expert that is added to its score for choosing, and not to its weight; "
    "training moves it to balance the load without an auxiliary loss.",
    "group": "a set of a layer's experts; some routers choose groups first, and experts only within them.",
    "renormalised": "said of weights that are divided by their sum, so that those of a token add up to 1.",
    "shared expert": "an expert that every token of a layer runs through, beside those that the router chooses.",
    "dense layer": "a layer with one feed-forward block and no router.",
    "expert load": "f_i: the share of a layer's assignments that expert i serves.",
    "importance": "P_i: the mean probability that a router gives expert i, over tokens; for the system of 2017, "
    "the sum of expert i's weights where it is kept.",
    "uniform": "the same for all experts: each has 1 / number of experts.",
    "at random": "what choosing experts by chance would show, as a yardstick for what is seen.",
    "MaxVio": "maximal violation: how far the busiest expert's load lies above the mean load, as a share of the mean.",
    "dead expert": "an expert that no token was sent to.",
    "capacity": "how many tokens an expert takes from a batch at most; the capacity factor is its multiple of the "
    "uniform load.",
    "dropped": "said of a token that found its expert full and went on without it: an empty slot of the trace.",
    "not recorded": "said of a token that was routed if the source does not say to which experts; unlike a "
    "dropped one, it is left out of every number.",
    "counts alone": "how many tokens each expert got, without which tokens they were: `ExpertCounts`.",
    "co-activation": "that two experts of a layer are chosen for the same token.",
    "locality": "that a token goes to the expert that the token before it went to.",
    "saturation": "the share of the experts of the finished model that a token already had at an earlier checkpoint.",
    "specialization": "that an expert serves some kinds of text or tokens more than others.",
    "mutual information": "how many bits the expert tells about the label, or the choice at one layer about another.",
    "margin": "how far the last chosen expert is ahead of the first that was not chosen; 0 is a tie.",
    "boundary tie": "a choice where the last chosen expert and the next best have the same score.",
    "expert parallelism": "serving a model with its experts spread over several devices.",
    "placement": "which device holds which experts.",
    "prefill": "reading the prompt, all of its tokens at once.",
    "decoding": "generating, one token after the other.",
    "speculative decoding": "generating with drafts of several tokens that the model accepts or rejects.",
    "intervention": "a change of what routers decide: experts muted, forced or exchanged, another top-k, a replay.",
    "ablation": "muting one expert after the other to see which matter.",
    "corpus": "many texts, each with a label.",
}
