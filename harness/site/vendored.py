"""The libraries that draw the page's charts and tables, from the pip packages that carry them.

Plotly comes as a script; DataTables comes with itables as an ES module, which no page of a disk can import, so that its
last line, the exports, is made a line that sets what the page uses.
"""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from benchmarks.errors import BenchError

PACKAGES = {"plotly": "package_data/plotly.min.js", "itables": "html/dt_bundle.js"}
EXPORTS = re.compile(r"export\{([^}]*)\};?\s*(?=/\*|$)")


class SiteError(BenchError, ValueError):
    """The site cannot be built. The message says what is missing and what to do."""


def vendored() -> dict[str, bytes]:
    """plotly.js and datatables.js, which sets `window.DataTable`, and the licences of both.

    Raises SiteError where a package is not installed, or is not made as the one that was tried.
    """
    plotly = _source("plotly").read_bytes()
    tables = _source("itables").read_text(encoding="utf-8")
    exports = list(EXPORTS.finditer(tables))
    found = re.search(r"([\w$]+) as default", exports[-1][1]) if exports else None
    if found is None:
        raise SiteError(
            f"{_source('itables')} has no default export, unlike that of the version that pyproject.toml asks for: "
            "pip install 'gvpo-bench[html]'"
        )
    start, end = exports[-1].span()
    script = f"(() => {{{tables[:start]};window.DataTable={found[1]};{tables[end:]}\n}})();\n"
    return {"plotly.js": plotly, "datatables.js": script.encode(), "LICENSES.txt": _licences().encode()}


def require_libraries() -> None:
    """Raises SiteError where a package is not installed."""
    for package in PACKAGES:
        _source(package)


def _source(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SiteError(f"--html needs the package {package}: pip install 'gvpo-bench[html]'")
    return Path(spec.origin).parent / PACKAGES[package]


def _licences() -> str:
    parts = []
    for package in PACKAGES:
        distribution = metadata.distribution(package)
        files = [path for path in distribution.files or () if path.name.upper().startswith("LICENSE")]
        texts = [Path(str(path.locate())).read_text(encoding="utf-8") for path in files if ".dist-info" in str(path)]
        parts += [f"{package} {distribution.version}", *texts]
    return "\n\n".join(parts)
