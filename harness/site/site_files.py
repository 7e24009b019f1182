"""From the data of one suite or several to the files of a site: index.html, page/, libraries, data/.

A page that is opened from a disk may import no module and fetch no file, but it may load scripts. So data are scripts
that hand compressed JSON to the page, each loaded when it is looked at. The content security policy runs the one inline
script whose hash it names, and what that loads ('strict-dynamic'); nothing else, and no eval.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from harness.record.files import new_folder
from harness.site.site_suite import SuitePages
from harness.site.vendored import SiteError, vendored

POLICY = (
    "default-src 'none'; script-src '{hash}' 'strict-dynamic'; style-src 'self' file: 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""Inline styles are those that Plotly sets; data are never parsed as HTML. `file:` is what 'self' is on a disk."""
SITE = "data/site.js"
"""What a page reads first, and by which its folder is known for a site."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of the files in an archive, so that the same data make the same bytes."""


def site_files(pages: Sequence[SuitePages]) -> dict[str, bytes]:
    """The files of a site by their paths. The same data give the same bytes.

    Raises SiteError where two suites have one name, or a library is not installed.
    """
    folders = {page.suite: folder_of(page.suite) for page in pages}
    if len(set(folders.values())) < len(pages):
        raise SiteError(f"suites of a site need names of their own: {', '.join(page.suite for page in pages)}")
    files = page_files()
    suites = [{**page.summary, "folder": folders[page.suite]} for page in pages]
    files[SITE] = data_script("site", {"suites": suites})
    for page in pages:
        folder = folders[page.suite]
        for name, data in page.data.items():
            files[f"data/{folder}/{name}.js"] = data_script(f"{folder}/{name}", data)
        files[f"data/{folder}/all.zip"] = archive(page.files())
    return files


def folder_of(suite: str) -> str:
    """The folder of a suite's data."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", suite)


def page_files() -> dict[str, bytes]:
    """The files of every site: index.html, its scripts and styles, libraries. Raises SiteError as `vendored`."""
    files = {f"vendor/{name}": content for name, content in vendored().items()}
    page_folder = resources.files("harness.site") / "page"
    files |= {
        f"page/{path.name}": path.read_bytes() for path in page_folder.iterdir() if path.name.endswith((".css", ".js"))
    }
    boot = files.pop("page/boot.js").decode()
    digest = base64.b64encode(hashlib.sha256(boot.encode()).digest()).decode()
    html = (page_folder / "index.html").read_text(encoding="utf-8")
    html = html.replace("{policy}", POLICY.format(hash=f"sha256-{digest}")).replace("{boot}", boot)
    files["index.html"] = html.encode()
    return files


def write_site(out: Path, pages: Sequence[SuitePages]) -> Path:
    """Writes the site into `out`, in place of an earlier one, and returns the path of its index.html.

    Raises SiteError where something else is there, or as `site_files`.
    """
    files = site_files(pages)
    if out.exists() and not all((out / name).is_file() for name in ("index.html", SITE)):
        raise SiteError(f"{out} exists and is no site; give another --out, or remove it")
    with new_folder(out.resolve()) as scratch:  # "." has no name beside which a scratch folder could be
        for name, content in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(content)
    return out / "index.html"


def data_script(name: str, data: Any) -> bytes:
    """A script that hands JSON to the page. Base64 holds no character that HTML or JavaScript would read."""
    text = json.dumps(finite(data), separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
    return f"site.put({json.dumps(name)}, '{packed}');\n".encode()


def finite(data: Any) -> Any:
    """The data without numbers that JSON has not: NaN becomes null, those of numpy become Python's."""
    if data is None or isinstance(data, str | int):
        return data
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    if hasattr(data, "item"):
        data = data.item()
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
