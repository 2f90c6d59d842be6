#!/bin/sh
# Makes /opt/egress-xds: the wheel and its pinned dependencies, with nothing that only a build needs.
#
#   environment.sh SOURCE [ROOT]
#
# SOURCE is the tree of the project, ROOT the root of the image that is built (default: /). Equal sources, and the same
# Python, give equal bytes, wherever ROOT is: what pip would write of the time and the place of the build is taken out.
set -eu

source=$(realpath "$1")
root=${2:+$(realpath "$2")}
prefix=/opt/egress-xds
python=${PYTHON:-python3}

umask 022
# The wheel's times, and every file's. The seed orders what Python compiles from sets.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1577836800}
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_QUIET=1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip install --no-compile --target "$scratch/build" --require-hashes --requirement "$source/requirements/build.txt"
(cd "$source" && PYTHONPATH="$scratch/build" "$python" -m hatchling build --target wheel --directory "$scratch/wheel") > /dev/null

# The image has no pip: nothing is installed there later.
"$python" -m venv --without-pip "$root$prefix"
install() {
    "$python" -m pip --python "$root$prefix/bin/python" install --no-compile "$@"
}
install --require-hashes --requirement "$source/requirements/kubernetes.txt"
install --no-deps "$scratch"/wheel/*.whl

cd "$root$prefix"
site=$(echo lib/python3.*/site-packages)
# Of the commands only our own is of use; its first line names the interpreter under its path in the image.
find bin -type f ! -name xds -delete
sed -i "1s|^#!.*|#!$prefix/bin/python|" bin/xds
sed -i '/^command = /d' pyvenv.cfg
# Where the wheel was, and the hashes of commands that are gone or changed.
find "$site" -path '*.dist-info/direct_url.json' -delete
find "$site" -path '*.dist-info/RECORD' -exec sed -i -e '\|^\.\./\.\./\.\./bin/|d' -e '\|/direct_url\.json,|d' {} +
# Compiled now, for nothing may be written later: `xds serve` starts in less than half the time. What is compiled belongs
# to its source by nothing that a file's time decides. The thousands of models of Kubernetes are hardly ever imported.
"$root$prefix/bin/python" -m compileall -q --invalidation-mode unchecked-hash ${root:+-s "$root" -p /} \
    -x '/kubernetes/(aio/)?client/(api|models)/' "$site"
find . -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
