"""The words of the field: each is explained where a chart uses it, and only there."""

from moeviz.charts import TOPICS
from moeviz.charts.comparison import COMPARISONS
from moeviz.charts.contribution import CONTRIBUTION
from moeviz.charts.effect import EFFECT
from moeviz.charts.engine_difference import CHARTS as OF_ENGINES
from moeviz.charts.multi_trace import CHARTS as OF_SEVERAL
from moeviz_app.views.history.story import METHOD, WORDS
from moeviz_app.widgets.chart_panel import GLOSSARY, explained_terms, words_of


def test_terms_are_found_in_any_form_and_not_inside_other_words():
    found = explained_terms("Which experts carry the load?", "Unloaded routers reload.")
    assert found.split("\n\n") == [f"**{term}**: {GLOSSARY[term]}" for term in ("expert", "router", "load")]
    assert explained_terms("Nothing here.") is None


def test_every_term_is_used_by_a_chart_or_the_experts_that_live_or_die_and_every_chart_has_one():
    charts = [
        *(chart for charts in TOPICS.values() for chart in charts),
        *COMPARISONS,
        *OF_ENGINES,
        *OF_SEVERAL,
        EFFECT,
        CONTRIBUTION,
    ]
    said = [" ".join(words_of(chart)) for chart in charts]
    assert not [text for text in said if explained_terms(text) is None]
    whole = " ".join([*said, WORDS["garden"]["lead"], METHOD])
    assert [term for term in GLOSSARY if f"**{term}**" not in explained_terms(whole)] == []
