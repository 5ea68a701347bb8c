"""Which tests a tier runs: eight slices make the whole, a changed folder calls for whole tables, dear files begin."""

from types import SimpleNamespace

import pytest
import tiers


class Case(SimpleNamespace):
    """A stand-in for a test that pytest has collected."""

    __hash__ = object.__hash__

    def get_closest_marker(self, name):
        return self.marks.get(name)


def cases(
    file: str, count: int, fixtures: tuple[str, ...] = (), together: bool = False, **marks: tuple[str, ...]
) -> list[Case]:
    found = {name: SimpleNamespace(args=args, kwargs={"together": together}) for name, args in marks.items()}
    path = tiers.ROOT / "tests" / file
    return [
        Case(path=path, nodeid=f"tests/{file}::test_it[{number}]", fixturenames=fixtures, marks=found)
        for number in range(count)
    ]


@pytest.fixture
def changed(monkeypatch):
    """Let these files be what changed."""

    def let(*files: str) -> None:
        monkeypatch.setattr(tiers, "changed_since", lambda _: files)

    let()
    return let


@pytest.fixture
def costs(monkeypatch):
    known = {"tests/a.py::test_it": 5.0, "tests/b.py::test_it": 0.09, "tests/c.py::model": 9.0, "::server": 9.0}
    monkeypatch.setattr(tiers, "costs", lambda: known)


def test_eight_slices_run_each_case_once_and_all_that_is_no_table_every_time(changed, monkeypatch):
    tables = cases("a.py", 21, table=("moeviz/capture",)) + cases("b.py", 3, table=("moeviz/history",))
    plain, seen = cases("c.py", 4), []
    for number in range(tiers.SLICES):
        monkeypatch.setenv("SLICE", str(number))
        kept = tiers.sliced([*tables, *plain])
        assert [item for item in kept if item in plain] == plain
        seen += [item for item in kept if item in tables]
    assert sorted(map(id, seen)) == sorted(map(id, tables))
    monkeypatch.setenv("SLICE", "0")
    assert 2 <= len(tiers.sliced(tables[:21])) <= 3


def test_cases_that_share_something_dear_are_one_case(changed, monkeypatch):
    table, kept = cases("a.py", 5, together=True, table=("docs",)), []
    for number in range(tiers.SLICES):
        monkeypatch.setenv("SLICE", str(number))
        kept.append(tiers.sliced(table))
    assert sorted(map(len, kept)) == [0] * (tiers.SLICES - 1) + [5]


@pytest.mark.parametrize("file", ["moeviz/capture/record/hooks.py", "tests/a.py"])
def test_a_change_in_its_folder_or_file_calls_for_the_whole_table(changed, file):
    changed(file)
    table, other = cases("a.py", 16, table=("moeviz/capture", "kernels")), cases("b.py", 16, table=("moeviz/history",))
    kept = tiers.sliced([*table, *other])
    assert [item for item in kept if item in table] == table and len(kept) == 16 + 2


def test_the_fast_tier_leaves_out_what_is_dear_alone_or_by_what_it_shares(costs):
    kept = [*cases("b.py", 2), *cases("new.py", 1), *cases("d.py", 1, fixtures=("model",))]
    left = [*cases("a.py", 1), *cases("c.py", 1, fixtures=("model",)), *cases("d.py", 1, fixtures=("server",))]
    marked = [item for mark in tiers.NOT_FAST for item in cases("new.py", 1, **{mark: ()})]
    assert tiers.fast([*left, *kept, *marked]) == kept


def test_the_dearest_file_begins_and_files_stay_whole(costs):
    few, dear, new = cases("b.py", 3), cases("a.py", 1), cases("new.py", 9)
    assert tiers.dearest_first([few[0], *new, *dear, *few[1:]]) == [*dear, *new, *few]


def test_files_that_drive_a_browser_stand_two_by_two_among_others(costs):
    files = [cases(f"{name}.py", 1, **({"browser": ()} if name < "v" else {})) for name in "pqrstvwxyz"]
    order = "".join(item.path.stem for item in tiers.dearest_first([item for file in files for item in file]))
    assert order == "pqvrswtxyz"


def test_a_base_that_is_no_commit_is_refused(monkeypatch):
    monkeypatch.setenv("BASE", "no-such-commit")
    tiers.base.cache_clear()
    with pytest.raises(pytest.UsageError, match="BASE=no-such-commit names no commit"):
        tiers.base()
    tiers.base.cache_clear()


def test_costs_that_were_kept_are_of_tests_and_fixtures_that_there_are():
    """A test that was renamed would count as new, and a dear one would slip into the fast tier."""
    files = {name.partition("::")[0] for name in tiers.costs()} - {""}
    assert files and not [file for file in files if not (tiers.ROOT / file).exists()]
    everywhere = "".join(path.read_text(encoding="utf-8") for path in (tiers.ROOT / "tests").rglob("*.py"))
    gone = []
    for name in tiers.costs():
        file, _, function = name.partition("::")  # what a whole session shares has no file
        where = (tiers.ROOT / file).read_text(encoding="utf-8") if file else everywhere
        if f"def {function}(" not in where:
            gone.append(name)
    assert not gone, "Measure anew: python -m benchmarks.suite record and keep"
