#!/bin/sh
# Makes the virtual environment that the Makefile's targets run in, or finds that it is up to date (in milliseconds).
#
#   tools/setup.sh            called by make, from the project's folder, with these variables:
#   PYTHON=...                the Python to use, 3.8 to 3.14 (default: the first usable of python3, those on the PATH, pyenv's)
#   MXNET=...                 the MXNet package: mxnet, mxnet-cu117, mxnet-cu101 ..., name==version, or a wheel's path
#                             (default: what is installed here already; else mxnet-cu117 where an NVIDIA driver shows
#                             a GPU that it can use, or mxnet)
#   VENV=...                  the folder (default: .venv)
#
# The environment is up to date when its stamp, written last, has the requirement files' checksum and the MXNet asked
# for. Otherwise it is made anew, so that an interrupted installation or another MXNet never leaves a mixture behind.
set -eu

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-}
MXNET=${MXNET:-}
stamp=$VENV/dml-playground.stamp
releases="3.11 3.12 3.13 3.14 3.10 3.9 3.8"
os_release=${OS_RELEASE:-/etc/os-release}

fail() {
    echo "$*" >&2
    exit 1
}

# prints "3.11.7" for a Python that can make the environment; fails for any other command
usable() {
    "$1" -c 'import sys
if not (3, 8) <= sys.version_info[:2] <= (3, 14): sys.exit(1)
import ensurepip, venv
print("%d.%d.%d" % sys.version_info[:3])' 2> /dev/null < /dev/null
}

# one command that brings a usable Python to this distribution
python_command() {
    # shellcheck disable=SC1090
    case $( (. "$os_release" && echo "${ID:-} ${ID_LIKE:-} ${VERSION_ID:-}") 2> /dev/null || true) in
        *debian* | *ubuntu*) echo "apt-get install python3-venv" ;;
        *fedora* | *rhel* | *centos*) echo "dnf install python3.12" ;;
        *arch*) echo "pacman -S python" ;;
        opensuse-leap*\ 15.*) echo "zypper install python312" ;;
        *suse*) echo "zypper install python313" ;;
        *) echo "your distribution's command for Python 3.8 to 3.14" ;;
    esac
}

find_python() {
    if grep -q '^ID="*alpine' "$os_release" 2> /dev/null; then
        fail "Alpine Linux has the C library musl, for which there is no MXNet: use a distribution with glibc, such as Debian, for example in a container."
    fi
    if [ -n "$PYTHON" ]; then
        usable "$PYTHON" > /dev/null && { echo "$PYTHON"; return; }
        fail "PYTHON=$PYTHON cannot be used: MXNet 1.9.1 needs Python 3.8 to 3.14 (with the modules venv and ensurepip)."
    fi
    for candidate in python3 python $(for r in $releases; do echo "python$r"; done) \
        $(for r in $releases; do ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$r".*/bin/python 2> /dev/null || true; done); do
        usable "$candidate" > /dev/null && { echo "$candidate"; return; }
    done
    fail "No usable Python found: MXNet 1.9.1 needs Python 3.8 to 3.14 with the module venv. As root: $(python_command); if you have one elsewhere, name it with make PYTHON=/path/to/python."
}

# Starts MXNet once; a missing system library is worth a line of its own. What is installed stays.
try_mxnet() {
    if ! problem=$("$VENV/bin/python" -W ignore -c 'from common.runtime import prepare; prepare()' 2>&1); then
        fail "MXNet ($mxnet) is installed but does not start: $(printf '%s\n' "$problem" | tail -n 1)" \
            "(Debian: apt-get install libgomp1 libquadmath0; CUDA builds other than mxnet-cu117 need CUDA, cuDNN and NCCL on LD_LIBRARY_PATH; without a GPU: make setup MXNET=mxnet)"
    fi
    echo 'starts: yes' >> "$stamp"
}

checksum=$(cat requirements-common.txt requirements-dev.txt requirements-export.txt requirements.txt requirements-cpu.txt \
    requirements-cuda.txt tools/opencv-python/pyproject.toml | cksum)

installed_mxnet=$(sed -n 's/^mxnet: //p' "$stamp" 2> /dev/null || true)
mxnet=${MXNET:-$installed_mxnet}

if [ -e "$stamp" ] && [ "$(sed -n 's/^requirements: //p' "$stamp")" = "$checksum" ] \
    && [ -n "$mxnet" ] && [ "$installed_mxnet" = "$mxnet" ] && version=$(usable "$VENV/bin/python"); then
    if [ -z "$PYTHON" ] || [ "$(usable "$PYTHON" || true)" = "$version" ]; then
        grep -q '^starts: yes$' "$stamp" || try_mxnet
        exit 0
    fi
fi

python=$(find_python)
if [ -e "$VENV" ] && [ ! -e "$VENV/dml-playground.making" ] && [ ! -e "$stamp" ]; then
    fail "The folder $VENV was not made by this Makefile; remove it, or choose another with make VENV=FOLDER."
fi

# where nothing says which MXNet; the line about a GPU that it cannot use goes to stderr
[ -n "$mxnet" ] || mxnet=$("$python" -c 'from common.runtime import default_build; print(default_build())')

case $mxnet in
    mxnet) set -- -r requirements-cpu.txt ;;
    mxnet-cu117) set -- -r requirements-cuda.txt ;;
    mxnet-cu101) set -- -r requirements.txt ;;
    */* | *=*) set -- -r requirements-common.txt "$mxnet" ;;
    *) set -- -r requirements-common.txt "$mxnet==1.9.1" ;;
esac

echo "Installing into $VENV: $mxnet, for Python $(usable "$python") ($(command -v "$python")). This is done once."
rm -rf "$VENV"
mkdir -p "$VENV"
: > "$VENV/dml-playground.making"
"$python" -m venv "$VENV"
quiet=--quiet
[ -t 1 ] && quiet=  # downloads are 100 MB to 2 GB: a person at a terminal sees them move
# shellcheck disable=SC2086
"$VENV/bin/python" -m pip install $quiet --disable-pip-version-check pip==25.0.1
# The list is complete (tests/test_setup.py); pip alone would refuse it: MXNet asks for a NumPy below 2.
# shellcheck disable=SC2086
"$VENV/bin/python" -m pip install $quiet --disable-pip-version-check --no-deps "$@" -r requirements-dev.txt

printf 'requirements: %s\nmxnet: %s\n' "$checksum" "$mxnet" > "$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$VENV/dml-playground.making"
try_mxnet
