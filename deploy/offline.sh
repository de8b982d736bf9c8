#!/usr/bin/env bash
# Make what `docker compose up --build` otherwise pulls, without any image registry:
# images of Python and of etcd from Debian packages, and a directory of wheels. Then
#
#   docker compose --env-file deploy/offline.env up --build
#
# Needs a running engine, mmdebstrap, and pip (of .venv, or of PYTHON). Images that are there are kept: to have newer
# packages in them, `docker image rm` them first.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${SUITE:-trixie}
base=roost-base:$suite
etcd=roost-etcd:$suite
python=${PYTHON:-$(ls .venv/bin/python 2>/dev/null || echo python3)}

# image NAME CHANGE OPTIONS...: import a file system that mmdebstrap makes with these options.
image() {
  local name=$1 change=$2
  shift 2
  if ! docker image inspect "$name" >/dev/null 2>&1; then
    mmdebstrap --quiet --aptopt='Acquire::Retries "5"' --dpkgopt='path-exclude=/usr/share/doc/*' \
      --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" "$suite" - \
      | docker import --change "$change" - "$name" >/dev/null
  fi
}

image "$base" 'CMD ["python3"]' --variant=minbase --include=python3-venv &
making=$!
# Only what etcd needs: no shell, and nobody is root. Debian's etcd 3.5 has the fixes that Roost asks for.
image "$etcd" 'USER 65534' --variant=extract --include=etcd-server,etcd-client,libc6,base-files \
  --extract-hook='install --directory --mode=700 --owner=65534 --group=65534 "$1/etcd-data"'
wait $making

version=$(docker run --rm --network none "$base" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
rm -f deploy/wheels/*.whl
"$python" deploy/needed.py --build > deploy/wheels/needed.txt
"$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version "$version" \
  --dest deploy/wheels --requirement deploy/wheels/needed.txt

cat > deploy/offline.env <<END
ROOST_BASE_IMAGE=$base
ROOST_ETCD_IMAGE=$etcd
ROOST_NO_INDEX=1
END
