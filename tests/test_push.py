"""The site of what is published goes where it is asked to go, and nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from publishing import write_small
from small import command

from harness.publish.freeze import publish_suite
from harness.publish.push import push_git
from harness.publish.raw_rows import PublishError
from harness.report import figures


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("push") / "runs" / "small", failed=False)


@pytest.fixture(autouse=True)
def _without_figures_and_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda **given: [])
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "remote.git"
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare")
    return folder


def site_of(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(text)
    return folder


def test_each_push_is_a_commit_on_top_that_replaces_the_site(remote: Path, tmp_path: Path) -> None:
    site = site_of(tmp_path / "site", "one")
    (site / "old.js").write_text("old")
    first = push_git(site, str(remote), "gh-pages")
    assert git(remote, "rev-parse", "gh-pages") == first
    assert push_git(site, str(remote), "gh-pages") == ""
    (site / "old.js").unlink()
    second = push_git(site_of(site, "two"), str(remote), "gh-pages")
    assert git(remote, "ls-tree", "--name-only", "gh-pages").split() == [".nojekyll", "index.html"]
    assert git(remote, "show", "gh-pages:index.html") == "two"
    assert git(remote, "log", "--format=%H", "gh-pages").split() == [second, first]


def test_a_branch_whose_name_ends_alike_is_another(remote: Path, tmp_path: Path) -> None:
    push_git(site_of(tmp_path / "docs", "docs"), str(remote), "docs/gh-pages")
    first = push_git(site_of(tmp_path / "site", "site"), str(remote), "gh-pages")
    assert git(remote, "log", "--format=%H", "gh-pages") == first


def test_what_git_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="git push"):
        push_git(site_of(tmp_path / "site", "x"), str(tmp_path / "nowhere.git"), "gh-pages")


def test_publish_pushes_the_site_of_all_that_is_published_to_a_branch(
    runs: Path, remote: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "results", "--readme", tmp_path / "README.md")
    assert command("publish", runs, *options) == 0
    assert git(remote, "branch", "--list") == ""
    assert command("publish", runs, *options, "--push-git", remote, "--branch", "pages") == 0
    assert "pages: commit " in " ".join(capsys.readouterr().out.split())
    names = git(remote, "ls-tree", "-r", "--name-only", "pages").split()
    assert {"index.html", "data/site.js", "data/small/overview.js"} < set(names)
    assert command("publish", runs, *options, "--push-git", remote, "--branch", "pages") == 0
    assert "holds this site already" in " ".join(capsys.readouterr().out.split())


class Hub:
    """A stand-in for `huggingface_hub.HfApi`."""

    def __init__(self) -> None:
        self.calls = CALLS

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create", repo_id, options))

    def upload_folder(self, *, folder_path: Path, **options: Any) -> None:
        names = {path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*")}
        self.calls.append(("upload", names, options, (folder_path / "README.md").read_text()))


CALLS: list[Any] = []


@pytest.mark.parametrize(
    ("kind", "created", "card"),
    [
        ("space", {"repo_type": "space", "exist_ok": True, "space_sdk": "static"}, "sdk: static\napp_file: index.html"),
        ("dataset", {"repo_type": "dataset", "exist_ok": True, "space_sdk": None}, "viewer: false"),
    ],
)
def test_publish_pushes_the_site_to_a_space_or_a_dataset_of_the_hub(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    created: dict[str, Any],
    card: str,
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    CALLS.clear()
    options = ("--out", tmp_path / "results", "--push-hub", "me/results", "--hub-type", kind)
    assert command("publish", runs, *options, "--readme", tmp_path / "README.md") == 0
    assert f"https://huggingface.co/{kind}s/me/results" in "".join(capsys.readouterr().out.split("\n"))
    (_, repository, how), (_, names, upload, readme) = CALLS
    assert (repository, how) == ("me/results", created)
    assert {"index.html", "data/site.js", "README.md"} < names
    assert (upload["repo_id"], upload["repo_type"], upload["delete_patterns"]) == ("me/results", kind, "*")
    assert readme.startswith("---\n")
    assert card in readme


def test_one_site_shows_all_published_suites_from_their_raw_rows(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("site", tmp_path / "results", "--out", tmp_path / "site") == 3
    assert "holds no published suite" in capsys.readouterr().err
    publish_suite(runs, tmp_path / "results")
    assert command("site", tmp_path / "results", "--out", tmp_path / "site") == 0
    assert (tmp_path / "site" / "data" / "small" / "responses-0.js").is_file()
