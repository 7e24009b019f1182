"""The site of published suites, to a branch for GitHub Pages or to the Hugging Face hub. Only when it is asked for."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from harness.publish.raw_rows import PublishError, is_published, opened
from harness.record.files import write
from harness.report.choice import report_of
from harness.site.site_files import write_site
from harness.site.site_suite import suite_pages

HubKind = Literal["space", "dataset"]

FRONT_MATTER = {
    "space": "title: gvpo-bench results\nsdk: static\napp_file: index.html\n",
    "dataset": "pretty_name: gvpo-bench results\nviewer: false\n",
}
"""What the hub reads of a repository's README.md."""


def published_site(results: Path, out: Path) -> Path:
    """Writes the site of all published suites below a folder into `out`; returns the path of its index.html.

    Raises PublishError where none is published there.
    """
    folders = [folder for folder in sorted(results.iterdir()) if is_published(folder)] if results.is_dir() else []
    if not folders:
        raise PublishError(f"{results} holds no published suite: gvpo-bench publish makes one")
    return write_site(out, [suite_pages(report_of(opened(folder)).publication) for folder in folders])


def push_git(site: Path, url: str, branch: str) -> str:
    """Puts a site in place of what a branch of a git repository holds, as one commit on top of it; the branch is made
    where there is none. Nothing is forced. Returns the commit, "" where the branch holds that very site.

    Raises PublishError with what git says where it refuses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)

        def git(*arguments: str, may_fail: bool = False) -> str | None:
            done = subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=False)
            if done.returncode and not may_fail:
                raise PublishError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
            return None if done.returncode else done.stdout.strip()

        ref = f"refs/heads/{branch}"  # a bare name stands for docs/<branch>, too, and for a tag
        git("init", "--quiet", "--initial-branch", branch)
        if git("ls-remote", "--exit-code", url, ref, may_fail=True):
            git("fetch", "--quiet", "--depth", "1", url, ref)
            git("reset", "--quiet", "--soft", "FETCH_HEAD")
        shutil.copytree(site, tree, dirs_exist_ok=True)
        write(tree / ".nojekyll", "")  # or GitHub leaves out what begins with _
        git("add", "--all", "--force", ".")
        if git("status", "--porcelain") == "":
            return ""
        git("commit", "--quiet", "--message", "Results of gvpo-bench")
        git("push", "--quiet", url, f"HEAD:{ref}")
        return git("rev-parse", "HEAD") or ""


def push_hub(site: Path, repository: str, kind: HubKind) -> str:
    """Puts a site in place of what a Space or a dataset of the hub holds, which is made where there is none. Returns
    its address."""
    from huggingface_hub import HfApi  # which transformers brings

    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        shutil.copytree(site, tree, dirs_exist_ok=True)
        write(tree / "README.md", f"---\n{FRONT_MATTER[kind]}---\n\nMade by `gvpo-bench publish`: open index.html.\n")
        hub = HfApi()
        sdk = "static" if kind == "space" else None
        hub.create_repo(repository, repo_type=kind, exist_ok=True, space_sdk=sdk)
        hub.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=tree,
            commit_message="Results of gvpo-bench",
            delete_patterns="*",
        )
    return f"https://huggingface.co/{kind}s/{repository}"
