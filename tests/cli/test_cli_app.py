"""What `moeviz app` starts, for whom, and that nothing but moeviz is on the page."""

import os
import runpy
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importer_files import FOLDER
from streamlit import config
from tiny_models import CONFIGS
from waiting import SECONDS

from moeviz.cli import app as serve
from moeviz.cli.app import _is_model, begin_with, open_browser, own_address
from moeviz.cli.main import main
from moeviz.formats.exports import open_cached, write_trace

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "app" / "moeviz_app" / "main.py"
QUIET = ("--logger.hideWelcomeMessage", "true")  # Streamlit's address has no token
CONFIG = ROOT / "app" / "moeviz_app" / ".streamlit" / "config.toml"


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What `moeviz app` hands to Streamlit, in place of a server: one list of arguments a call."""
    calls = []
    monkeypatch.setattr(runpy, "run_module", lambda name, run_name, alter_sys: calls.append((name, *sys.argv)))
    monkeypatch.setattr(sys, "argv", ["moeviz"])
    monkeypatch.setenv("MOEVIZ_OPEN", "")  # so that it is as it was, when the test is over
    monkeypatch.delenv("MOEVIZ_OPEN")
    for name in ("MOEVIZ_SERVE", "MOEVIZ_HOSTS", "MOEVIZ_LOGIN_HEADER", "FORWARDED_ALLOW_IPS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MOEVIZ_ASK_TOKEN", "0")
    monkeypatch.chdir(tmp_path)  # and back, when the test is over
    return calls


def test_a_user_without_a_home_gets_one_that_ends_with_the_server(started, monkeypatch, capsys):
    """Streamlit ends with a traceback where there is none."""

    def home():
        if "HOME" not in os.environ:
            raise RuntimeError("Could not determine home directory.")
        return Path(os.environ["HOME"])

    ended = []
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(serve.atexit, "register", lambda *call, **how: ended.append(call))
    monkeypatch.setenv("HOME", "")  # so that it is as it was, when the test is over
    monkeypatch.delenv("HOME")
    assert main(["app", "--no-browser"]) == 0 and started
    place = Path(os.environ["HOME"])
    assert place.is_dir() and (os.name == "nt" or place.stat().st_mode & 0o777 == 0o700)
    assert "this user has no home folder, so traces are kept until the server stops" in capsys.readouterr().err
    ((remove, *where),) = ended
    remove(*where)
    assert not place.exists()


def test_app_starts_streamlit_in_the_folder_where_the_user_is(started):
    before = Path.cwd()
    assert main(["app", "--no-browser"]) == 0
    assert Path.cwd() == before
    (call,) = started
    assert call[:3] == ("streamlit", "streamlit", "run")
    assert Path(call[3]) == MAIN
    assert call[4:] == ("--server.port", "8501", *QUIET, "--server.address", "localhost")


@pytest.mark.parametrize(
    ("words", "way", "hosts"),
    [
        ((), "private", ""),
        (("--team", "--behind", "lab.example"), "team", "lab.example"),
        (("--team", "--behind", "lab.example", "--behind", "10.0.0.7"), "team", "lab.example,10.0.0.7"),
        (("--public",), "public", ""),
        (("--public", "--behind", "moe.example"), "public", "moe.example"),
    ],
    ids=" ".join,
)
def test_the_options_say_for_whom_the_app_is_served(started, words, way, hosts):
    assert main(["app", "--no-browser", *words]) == 0
    assert (os.environ["MOEVIZ_SERVE"], os.environ["MOEVIZ_HOSTS"]) == (way, hosts)
    quiet = QUIET if way == "private" else ()
    assert started[0][4:] == ("--server.port", "8501", *quiet, "--server.address", "localhost")
    assert os.environ["FORWARDED_ALLOW_IPS"] == "none"  # uvicorn leaves the peer's address as it is


def test_the_environment_says_so_where_no_option_does(started, monkeypatch):
    monkeypatch.setenv("MOEVIZ_SERVE", "public")
    assert main(["app", "--no-browser"]) == 0 and os.environ["MOEVIZ_SERVE"] == "public"
    assert main(["app", "--team", "--behind", "lab.example"]) == 0 and os.environ["MOEVIZ_SERVE"] == "team"


def test_a_proxy_s_log_in_is_named_by_an_option(started):
    assert main(["app", "--team", "--behind", "lab.example", "--login-header", "X-Remote-User"]) == 0
    assert os.environ["MOEVIZ_LOGIN_HEADER"] == "X-Remote-User"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "lab.example", ""])
def test_an_address_that_lets_others_in_is_refused_with_what_to_do(started, capsys, address):
    assert main(["app", "--no-browser", f"--server.address={address}"]) == 3
    said = capsys.readouterr().err
    assert "moeviz app --team --behind HOST" in said and "moeviz app --public" in said and not started


@pytest.mark.parametrize("words", [("--team", "--behind", "lab.example"), ("--public",)], ids=" ".join)
def test_for_others_the_app_is_opened_to_other_machines_when_told_to(started, words):
    assert main(["app", "--port", "8080", *words, "--server.address", "0.0.0.0"]) == 0
    assert started[0][4:] == ("--server.port", "8080", "--server.address", "localhost", "--server.address=0.0.0.0")


def test_nobody_is_a_team_and_strangers_at_once(started, capsys):
    with pytest.raises(SystemExit):
        main(["app", "--team", "--public"])
    assert "cannot be combined with" in capsys.readouterr().err and not started


@pytest.mark.parametrize(
    "words",
    [
        ("mine.npz",),
        ("mine.npz", "--server.address", "127.0.0.1"),
        ("--server.address", "127.0.0.1", "--port", "8080", "mine.npz"),
    ],
    ids=" ".join,
)
def test_app_opens_a_file_wherever_it_stands_among_the_options(started, words, trace):
    write_trace(trace, "mine.npz")
    assert main(["app", "--no-browser", *words]) == 0
    assert started[0][-1] == ("--server.address=127.0.0.1" if len(words) > 1 else "localhost")
    assert os.environ["MOEVIZ_OPEN"] == str(Path("mine.npz").resolve())


def test_app_without_a_file_opens_none(started):
    assert main(["app", "--no-browser", "--server.address", "127.0.0.1"]) == 0
    assert "MOEVIZ_OPEN" not in os.environ


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.npz", "'none.npz'"),
        ("notes.txt", "'notes.txt'"),
        ("report.html", "'report.html'"),
        ("broken.json", "JSON"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_before_anything_is_served(started, capsys, name, sentence):
    Path("broken.json").write_text("{")
    assert main(["app", "--no-browser", name]) == 3
    assert not started and "MOEVIZ_OPEN" not in os.environ
    first, line = capsys.readouterr().err.splitlines()
    assert first == f"moeviz: reading {name}" and line.startswith("moeviz: ") and sentence in line


def test_app_opens_several_files_and_what_they_need_to_be_told(started, trace, capsys):
    write_trace(trace, "mine.npz")
    matrix = FOLDER / "imatrix.gguf"
    assert main(["app", "--no-browser", "mine.npz", str(matrix)]) == 3
    assert "--experts-per-token on the command line" in capsys.readouterr().err and not started
    assert main(["app", "--no-browser", "mine.npz", str(matrix), "--experts-per-token", "2"]) == 0
    assert os.environ["MOEVIZ_OPEN"].split("\n") == [str(Path("mine.npz").resolve()), str(matrix.resolve())]
    assert open_cached(matrix).counted.model.top_k == 2, "what was read is handed over, and not read again"
    assert main(["app", "--no-browser", *["mine.npz"] * 9]) == 3
    assert "up to 8 files, and 9 are named" in capsys.readouterr().err


def test_a_word_that_nothing_takes_is_not_handed_to_streamlit(started, capsys):
    with pytest.raises(SystemExit):
        main(["app", "one.npz", "--port", "8080", "two.npz"])
    assert "'two.npz'" in capsys.readouterr().err and not started


def test_app_opens_a_browser_once_the_server_answers(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        open_browser(port)
    assert opened == [f"http://localhost:{port}"]


def test_one_s_own_browser_is_opened_with_the_token_unless_none_is_asked_for(started, monkeypatch, tmp_path):
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path))
    assert own_address(8501) == "http://localhost:8501"
    monkeypatch.setenv("MOEVIZ_ASK_TOKEN", "1")
    address = own_address(8501)
    assert address == f"http://localhost:8501/?access={(tmp_path / 'token').read_text()}" == own_address(8501)
    monkeypatch.setenv("MOEVIZ_TOKEN", "a-token-of-one's-own")
    assert own_address(8501) == "http://localhost:8501/?access=a-token-of-one%27s-own"
    monkeypatch.setenv("MOEVIZ_SERVE", "team")
    assert own_address(8501) == "http://localhost:8501"
    monkeypatch.setenv("MOEVIZ_SERVE", "")
    assert main(["app", "--no-browser", "--no-token"]) == 0 and own_address(8501) == "http://localhost:8501"


def test_without_streamlit_a_sentence_says_how_to_get_it(started, monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["app", "--no-browser"]) == 3
    assert not started
    assert capsys.readouterr().err.splitlines() == [
        'moeviz: The app needs Streamlit, which is not installed here: `pip install "moeviz[app]"`.'
    ]


def test_the_settings_lie_beside_the_entry_where_streamlit_finds_them_from_any_folder(tmp_path, monkeypatch):
    """Said by Streamlit itself: the app's file counts, and is read after that of the folder one is in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "_main_script_path", str(MAIN))  # as `streamlit run` sets it
    *others, ours = config.get_config_files("config.toml")
    assert Path(ours) == CONFIG and CONFIG.is_file()
    assert not [path for path in others if Path(path) == CONFIG]


def test_the_repository_s_settings_and_the_package_s_are_the_same():
    """`.streamlit/` is where Streamlit, and whoever knows it, looks first; `app/.streamlit/` travels in the package."""
    assert (ROOT / ".streamlit" / "config.toml").read_bytes() == CONFIG.read_bytes()


def test_streamlit_neither_counts_visits_nor_advertises_nor_shows_errors():
    """It puts a toast with an install button on the page unless it runs headless."""
    settings = tomllib.loads(CONFIG.read_text())
    assert settings["browser"]["gatherUsageStats"] is False
    assert settings["server"]["headless"] is True
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["server"]["maxUploadSize"] == 50


@pytest.mark.package
@pytest.mark.parametrize("installed", [True, False], ids=["another moeviz installed", "no moeviz installed"])
def test_a_bare_clone_runs_with_its_own_parts_alone(tmp_path, installed):
    """`streamlit run app/moeviz_app/main.py` where only requirements.txt is installed, or an older moeviz."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "app", clone / "app", ignore=shutil.ignore_patterns("__pycache__"))
    forgotten = [] if installed else [str(ROOT), str(ROOT / "app"), str(ROOT / "kernels")]
    for folder in ("moeviz", "kernels"):
        (clone / folder).symlink_to(ROOT / folder)
    script = f"""if True:
        import sys
        from streamlit.testing.v1 import AppTest
        sys.path = [place for place in sys.path if place not in ('', *{forgotten!r})]
        app = AppTest.from_file({str(clone / "app" / "moeviz_app" / "main.py")!r}, default_timeout={SECONDS}).run()
        assert not app.exception, app.exception
        import moe_kernels, moeviz, moeviz_app.session.session
        for module in (moeviz, moe_kernels, moeviz_app.session.session):
            print(module.__file__)
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(line.startswith(str(clone)) for line in run.stdout.splitlines()), run.stdout


def test_the_app_begins_with_the_model_of_a_folder(monkeypatch, tmp_path):
    CONFIGS["mixtral"].save_pretrained(tmp_path)
    monkeypatch.setenv("MOEVIZ_MODELS", "")  # and not `delenv`, which would leave what is set here to later tests
    begin_with([str(tmp_path)])
    assert os.environ["MOEVIZ_MODELS"].split(",") == [str(tmp_path), "embedded"]


@pytest.mark.parametrize(
    ("name", "is_model"),
    [("allenai/OLMoE-1B-7B-0924", True), ("Qwen/Qwen1.5-MoE-A2.7B", True), ("no/trace.npz", False), ("none", False)],
)
def test_an_id_on_the_hub_is_a_model_and_a_file_is_not(name, is_model):
    assert _is_model(name) == is_model
