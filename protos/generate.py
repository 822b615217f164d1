"""Generate the Python code of `troupe/v1/*.proto` beside the sources.

`--check` generates into a temporary directory instead and exits 1, naming the files, where they differ.
"""

import filecmp
import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "troupe/v1").glob("*.proto"))
SERVICES = {Path(source).name for source in SOURCES if "\nservice " in (ROOT / source).read_text()}
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"


def generate(target: Path) -> None:
    """Write `*_pb2.py`, `*_pb2_grpc.py` and their type stubs below `target`."""
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # protoc finds the plugins of mypy-protobuf beside the interpreter, activated or not.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{WELL_KNOWN}", *outputs, *SOURCES]) != 0:
        sys.exit(1)
    for stub in (target / "troupe/v1").glob("*_pb2_grpc.py*"):
        if f"{stub.name.split('_pb2')[0]}.proto" not in SERVICES:
            stub.unlink()


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        fresh = {path.name for path in Path(directory, "troupe/v1").iterdir()}
        committed = {path.name for path in (ROOT / "troupe/v1").glob("*_pb2*")}
        _, differ, _ = filecmp.cmpfiles(
            Path(directory, "troupe/v1"), ROOT / "troupe/v1", sorted(fresh & committed), shallow=False
        )
        if stale := sorted(fresh ^ committed | set(differ)):
            sys.exit(f"generated code is not current: {', '.join(stale)}. Run: make generate")


if __name__ == "__main__":
    main()
