"""A software bill of materials of what ``pip install bitcert[onnx,exact]`` brings, as CycloneDX JSON; called by ``make sbom``.

``python .ci/sbom.py build/bitcert-sbom.json`` installs bitcert with the versions of ``constraints.txt`` into a clean environment,
asks CycloneDX what is there, and keeps names, versions, licenses and dependencies: no links, hosts or paths. Needs uv.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ("bom-ref", "type", "name", "version", "purl", "licenses")


def main() -> int:
    """Write the bill; the exit status is 1 if it says something about this machine."""
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder)
        run(
            "uv", "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", f"{ROOT}[onnx,exact]"
        )
        ask = ("environment", "--short-PURLs", "--output-reproducible", "--pyproject", ROOT / "pyproject.toml", python)
        bill = reduce(json.loads(run(sys.executable, "-m", "cyclonedx_py", *ask)))
    text = json.dumps(bill, indent=2)
    if private := sorted(
        word for word in ("file:", "://", "/tmp", str(ROOT), str(Path.home()), sys.prefix) if word in text
    ):
        print(f"sbom: the bill names {', '.join(private)}", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")
    unknown = [found["name"] for found in bill["components"] if not found.get("licenses")]
    print(f"{out}: {len(bill['components'])} packages; they state no license: {', '.join(unknown) or 'none'}")
    return 0


def reduce(bill: dict[str, Any]) -> dict[str, Any]:
    """A bill with what is public of each package alone."""
    root = bill["metadata"]["component"]
    parts = [part for part in bill["components"] if part["name"].lower() != root["name"]]
    return {
        **{key: bill[key] for key in ("bomFormat", "specVersion", "version")},
        "metadata": {"component": public(root)},
        "components": [public(part) for part in parts],
        "dependencies": [
            {key: each[key] for key in ("ref", "dependsOn") if key in each} for each in bill["dependencies"]
        ],
    }


def public(part: dict[str, Any]) -> dict[str, Any]:
    """Of a package, what is kept, with licenses by name: some packages give their whole text in its place."""
    kept = {key: part[key] for key in KEPT if key in part}
    if "licenses" in part:
        kept["licenses"] = [first_lines(found) for found in part["licenses"]]
    return kept


def first_lines(found: Any) -> Any:
    """A license without its text and links."""
    if isinstance(found, str):
        return found.strip().partition("\n")[0]
    return {key: first_lines(inner) for key, inner in found.items() if key in ("license", "expression", "id", "name")}


def run(*command: object) -> str:
    """Run a command and return what it prints; exit with its message if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"sbom: {' '.join(map(str, command))}\n{done.stderr[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
