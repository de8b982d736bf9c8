"""Generate code from the .proto files, each where its path below this folder says.

`roost/v1` (the public contract, with services) goes to `client/`; `roost_node/ownership` (messages of
etcd's) to `node/`. `python proto/generate.py [OUT]`: with OUT, to OUT/client and OUT/node.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def generate(out: Path) -> None:
    """Write message classes, gRPC stubs and their types below `out`."""
    bin_dir = Path(sys.executable).parent  # protoc looks on PATH, which need not hold the venv
    plugins = [f"--plugin={bin_dir / p}" for p in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    messages, services = ["python", "mypy"], ["grpc_python", "mypy_grpc"]
    options = {"mypy": "quiet:", "mypy_grpc": "quiet,only_async:"}
    for folder, root, kinds in (
        ("roost", out / "client", messages + services),
        ("roost_node", out / "node", messages),
    ):
        root.mkdir(exist_ok=True)
        outputs = [f"--{kind}_out={options.get(kind, '')}{root}" for kind in kinds]
        protos = sorted(str(path.relative_to(HERE)) for path in HERE.glob(f"{folder}/**/*.proto"))
        protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
        subprocess.run([*protoc, *plugins, *outputs, *protos], cwd=HERE, check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent)
