"""What a deployment decides: the three ways of serving, the table of limits, and the file."""

import re
from dataclasses import fields

import pytest

from moeviz_app import settings
from moeviz_app.settings import WAYS, read_settings, settings_file

TABLE = {name: usual for name, *usual, _ in settings.table()}
LIMITS = {  # as numbers, by way
    name: tuple(map(int, row["usual"]))
    for name, row in settings.USUAL.items()
    if all(usual.isdecimal() and int(usual) > 1 for usual in row["usual"])
}


def test_each_setting_has_a_row_that_says_what_it_means():
    assert [*settings.USUAL] == [row.name for row in fields(settings.Settings)]
    assert all(row[-1] for row in settings.table()) and len(LIMITS) == 17


def served(way, **more):
    return read_settings({"MOEVIZ_SERVE": way, "MOEVIZ_HOSTS": "lab.example", **more})


def test_what_is_not_started_by_moeviz_app_follows_the_public_rules():
    assert read_settings({}).serve == "public"


@pytest.mark.parametrize("column", range(3), ids=WAYS)
def test_the_table_says_what_holds_where_nothing_is_set(column):
    found = served(WAYS[column])
    assert {name: str(getattr(found, name)) for name in LIMITS} == {
        name: TABLE[f"MOEVIZ_{name.upper()}"][column] for name in LIMITS
    }


def test_strangers_get_no_more_than_a_team_and_a_team_no_more_than_oneself():
    for name, (private, team, public) in LIMITS.items():
        if name not in (
            "max_waiting",
            "max_sessions",
            "sessions_per_address",
            "runs_per_address",
        ):  # these are for many at once
            assert private >= team >= public, name


def test_a_file_says_the_same_and_the_environment_counts_before_it(tmp_path):
    (tmp_path / "moeviz.toml").write_text(
        'models = ["embedded", "/models/OLMoE"]\nmax_new_tokens = 7\nwarm_up = false\n'
        'seconds_idle = 9\nopen = "x.npz"\n'
    )
    found = read_settings({"MOEVIZ_MAX_NEW_TOKENS": "8", "MOEVIZ_SECONDS_IDLE": ""}, settings_file(tmp_path))
    assert found.models == ("embedded", "/models/OLMoE") and found.files == ("x.npz",)
    assert (found.max_new_tokens, found.seconds_idle, found.warm_up) == (8, 9, False)


def test_a_file_opens_several_files_and_a_comma_is_part_of_a_name(tmp_path):
    (tmp_path / "moeviz.toml").write_text('open = ["a, b.npz", "corpus"]\nmodels = ["embedded", "/m"]\n')
    found = read_settings({}, settings_file(tmp_path))
    assert found.files == ("a, b.npz", "corpus") and found.models == ("embedded", "/m")


def test_a_folder_without_the_file_says_nothing(tmp_path):
    assert settings_file(tmp_path) == {}


@pytest.mark.parametrize(
    "written", ["max_new_tokns = 3", "max_new_tokens = ", "max_new_tokens = -3", 'serve = "public"']
)
def test_a_file_that_says_something_else_is_refused(tmp_path, written):
    (tmp_path / "moeviz.toml").write_text(written)
    with pytest.raises(ValueError, match=r"moeviz\.toml|MOEVIZ_MAX_NEW_TOKENS is '-3'"):
        read_settings({}, settings_file(tmp_path))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"MOEVIZ_SERVE": "everybody"}, "MOEVIZ_SERVE is 'everybody'; it must be private, team or public"),
        ({"MOEVIZ_ALLOW_ANY_MODEL": "1"}, "List the models in MOEVIZ_MODELS"),
        ({"MOEVIZ_SERVE": "team"}, "moeviz app --team --behind HOST"),
        ({"MOEVIZ_TOKEN": "short"}, "at least 16 characters"),
        ({"MOEVIZ_TOKEN": "sixteen of them, but spaces"}, "without a space"),
        ({"MOEVIZ_LOGIN_HEADER": "X-User"}, "anyone could send that header"),
        ({"MOEVIZ_TRUSTED_PROXIES": "127.0.0.1, proxy"}, "has 'proxy'; it must be addresses"),
        ({"MOEVIZ_FRAME_ANCESTORS": "https://a.example; script-src *"}, "it must be sites"),
        ({"MOEVIZ_SECONDS_IDLE": "²"}, "a whole number"),
        ({"MOEVIZ_WARM_UP": "on"}, "MOEVIZ_WARM_UP is 'on'; it must be"),
    ],
    ids=str,
)
def test_what_no_deployment_may_have_stops_it_with_a_sentence(given, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_settings(given)
