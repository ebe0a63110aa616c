"""Make every generated file: the protocol's stubs and its page, the CRDs, the chart's values' page.

``generate.py`` makes all, ``generate.py proto`` (``crds``, ``values``) a part of them, and
``generate.py --check`` compares them with the files that are there and exits 1 on a difference.
"""

import argparse
import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import protocol_page
import values_page
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = "trialfleet/v1/trialfleet.proto"
CHART = "charts/trialfleet"


def generate_proto(into: Path) -> None:
    """Write the stubs and docs/protocol.md under a folder laid out as the project is."""
    stubs = into / "operator"
    stubs.mkdir(parents=True)
    plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent))
    if plugin is None:
        sys.exit("protoc-gen-mypy_grpc is missing: make clean, then try again")
    descriptors = into / "descriptors"
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--python_out={stubs}",
            f"--pyi_out={stubs}",
            f"--grpc_python_out={stubs}",
            f"--plugin=protoc-gen-mypy_grpc={plugin}",
            f"--mypy_grpc_out=quiet:{stubs}",
            "--include_source_info",
            f"--descriptor_set_out={descriptors}",
            PROTO,
        ]
    )
    if code != 0:
        sys.exit(code)
    _move_stubs(stubs)
    page = into / "docs" / "protocol.md"
    page.parent.mkdir()
    page.write_text(protocol_page.render(descriptors.read_bytes()), encoding="utf-8")
    descriptors.unlink()


def _move_stubs(stubs: Path) -> None:
    """Move protoc's package ``trialfleet.v1`` into ``trialfleet.wire``, with its imports."""
    package = stubs / "trialfleet" / "wire" / "v1"
    package.parent.mkdir()
    (stubs / "trialfleet" / "v1").rename(package)
    for path in package.iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("from trialfleet.v1 ", "from trialfleet.wire.v1 ")
        text = text.replace("'trialfleet.v1.trialfleet_pb2'", "'trialfleet.wire.v1.trialfleet_pb2'")
        path.write_text(text, encoding="utf-8")


def generate_crds(into: Path) -> None:
    """Write crds/, and what the chart has of them, under a folder laid out as the project is."""
    subprocess.run([sys.executable, "-m", "trialfleet.api.crd", str(into / "crds")], check=True)
    shutil.copytree(into / "crds", into / CHART / "files" / "crds")


def generate_values(into: Path) -> None:
    """Write docs/values.md under a folder laid out as the project is."""
    page = into / "docs" / "values.md"
    page.parent.mkdir()
    source = (ROOT / CHART / "values.yaml").read_text(encoding="utf-8")
    page.write_text(values_page.render(source), encoding="utf-8")


TARGETS = {"proto": generate_proto, "crds": generate_crds, "values": generate_values}


def difference(made: Path, kept: Path) -> str:
    """Return a unified diff, empty when both files hold the same."""
    if kept.exists() and kept.read_bytes() == made.read_bytes():
        return ""
    before = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    after = made.read_text(encoding="utf-8").splitlines()
    name = str(kept.relative_to(ROOT))
    return "\n".join(difflib.unified_diff(before, after, name, f"{name} (generated)", lineterm=""))


def check(target: str, made: Path) -> bool:
    """Say what differs and how to mend it; return whether all is as generated."""
    files = sorted(path for path in made.rglob("*") if path.is_file())
    differences = [
        text for path in files if (text := difference(path, ROOT / path.relative_to(made)))
    ]
    folders = {path.parent.relative_to(made) for path in files} - {Path("docs")}
    expected = {path.relative_to(made) for path in files} | {
        Path("operator/trialfleet/wire/v1/__init__.py")
    }
    stale = [
        path.relative_to(ROOT)
        for folder in folders
        for path in (ROOT / folder).iterdir()
        if path.is_file() and path.relative_to(ROOT) not in expected
    ]
    for text in differences:
        print(text, file=sys.stderr)
    for path in stale:
        print(f"{path} is not generated any more: remove it", file=sys.stderr)
    if differences:
        print(f"generated files are out of date; mend them with: make {target}", file=sys.stderr)
    return not differences and not stale


def main() -> None:
    """Generate or check what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="proto|crds|values")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    good = True
    for target in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder)
            TARGETS[target](made)
            if options.check:
                good &= check(target, made)
            else:
                shutil.copytree(made, ROOT, dirs_exist_ok=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
