#!/bin/sh
# Makes the virtual environment that the Makefile's targets run in, or finds that it is up to date (in milliseconds).
#
#   tools/setup.sh            called by make, from the project's folder, with these variables:
#   PYTHON=...                the Python to use (default: the first usable of python3, python3.11 ... python3.8, pyenv's)
#   MXNET=...                 the MXNet package: mxnet, mxnet-cu101, mxnet-cu117 ..., name==version, or a wheel's path
#                             (default: what is installed here already; else mxnet, or mxnet-cu101 beside an NVIDIA driver)
#   VENV=...                  the folder (default: .venv)
#
# The environment is up to date when its stamp, written last, has the requirement files' checksum and the MXNet asked
# for. Otherwise it is made anew, so that an interrupted installation or another MXNet never leaves a mixture behind.
set -eu

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-}
MXNET=${MXNET:-}
stamp=$VENV/dml-playground.stamp
releases="3.11 3.10 3.9 3.8"

fail() {
    echo "$*" >&2
    exit 1
}

# prints the MXNet package to install where nothing says which
default_mxnet() {
    if command -v nvidia-smi > /dev/null 2>&1 && nvidia-smi -L > /dev/null 2>&1; then
        echo mxnet-cu101
    else
        echo mxnet
    fi
}

# prints "3.11.7" for a Python that can make the environment; fails for any other command
usable() {
    "$1" -c 'import sys
if not (3, 8) <= sys.version_info[:2] <= (3, 11): sys.exit(1)
import ensurepip, venv
print("%d.%d.%d" % sys.version_info[:3])' 2> /dev/null < /dev/null
}

find_python() {
    if [ -n "$PYTHON" ]; then
        usable "$PYTHON" > /dev/null && { echo "$PYTHON"; return; }
        fail "PYTHON=$PYTHON cannot be used: MXNet 1.9.1 needs Python 3.8, 3.9, 3.10 or 3.11 (with the modules venv and ensurepip)."
    fi
    for candidate in python3 python $(for r in $releases; do echo "python$r"; done) \
        $(for r in $releases; do ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$r".*/bin/python 2> /dev/null || true; done); do
        usable "$candidate" > /dev/null && { echo "$candidate"; return; }
    done
    fail "No usable Python found: MXNet 1.9.1 needs Python 3.8, 3.9, 3.10 or 3.11 with venv (Debian: python3-venv); if you have one, name it with make PYTHON=/path/to/python."
}

# Starts MXNet once; a missing system library is worth a line of its own. What is installed stays.
try_mxnet() {
    if ! problem=$("$VENV/bin/python" -W ignore -c 'import mxnet' 2>&1); then
        fail "MXNet ($mxnet) is installed but does not start: $(printf '%s\n' "$problem" | tail -n 1)" \
            "(Debian: apt-get install libgomp1 libquadmath0; a CUDA build needs its CUDA, cuDNN and NCCL on LD_LIBRARY_PATH; without a GPU: make MXNET=mxnet)"
    fi
    echo 'starts: yes' >> "$stamp"
}

checksum=$(cat requirements-common.txt requirements-dev.txt requirements.txt requirements-cpu.txt \
    tools/opencv-python/pyproject.toml | cksum)

installed_mxnet=$(sed -n 's/^mxnet: //p' "$stamp" 2> /dev/null || true)
mxnet=${MXNET:-${installed_mxnet:-$(default_mxnet)}}

if [ -e "$stamp" ] && [ "$(sed -n 's/^requirements: //p' "$stamp")" = "$checksum" ] \
    && [ "$installed_mxnet" = "$mxnet" ] && version=$(usable "$VENV/bin/python"); then
    if [ -z "$PYTHON" ] || [ "$(usable "$PYTHON" || true)" = "$version" ]; then
        grep -q '^starts: yes$' "$stamp" || try_mxnet
        exit 0
    fi
fi

python=$(find_python)
if [ -e "$VENV" ] && [ ! -e "$VENV/dml-playground.making" ] && [ ! -e "$stamp" ]; then
    fail "The folder $VENV was not made by this Makefile; remove it, or choose another with make VENV=FOLDER."
fi

case $mxnet in
    mxnet) set -- -r requirements-cpu.txt ;;
    mxnet-cu101) set -- -r requirements.txt ;;
    */* | *=*) set -- -r requirements-common.txt "$mxnet" ;;
    *) set -- -r requirements-common.txt "$mxnet==1.9.1" ;;
esac

echo "Installing into $VENV: $mxnet, for Python $(usable "$python") ($python). This is done once."
rm -rf "$VENV"
mkdir -p "$VENV"
: > "$VENV/dml-playground.making"
"$python" -m venv "$VENV"
quiet=--quiet
[ -t 1 ] && quiet=  # downloads are 100 to 500 MB: a person at a terminal sees them move
# shellcheck disable=SC2086
"$VENV/bin/python" -m pip install $quiet --disable-pip-version-check pip==25.0.1
# shellcheck disable=SC2086
"$VENV/bin/python" -m pip install $quiet --disable-pip-version-check "$@" -r requirements-dev.txt

printf 'requirements: %s\nmxnet: %s\n' "$checksum" "$mxnet" > "$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$VENV/dml-playground.making"
try_mxnet
