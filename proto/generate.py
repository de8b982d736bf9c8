"""Generate `client/roost/v1` from the .proto files: `python proto/generate.py [OUT]`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def generate(out: Path) -> None:
    """Write message classes, gRPC stubs and their types below `out`."""
    bin_dir = Path(sys.executable).parent  # protoc looks on PATH, which need not hold the venv
    plugins = [f"--plugin={bin_dir / p}" for p in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet,only_async:{out}",
    ]
    protos = sorted(str(path.relative_to(HERE)) for path in HERE.glob("**/*.proto"))
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    subprocess.run([*protoc, *plugins, *outputs, *protos], cwd=HERE, check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "client")
