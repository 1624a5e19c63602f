#!/usr/bin/env bash
# Set up .venv: Python packages from requirements.lock, this repository as an editable package, ROS interfaces.
# Idempotent. PYTHON names the interpreter to build on; MMMT_SETUP_APT=no forbids installing system packages.
set -euo pipefail
cd "$(dirname "$0")/.."

# Left over from a parent Python of another environment, these would make ours load that environment's libraries.
unset LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH PYTHONHOME
# Modules are compiled when they are first imported, which has to be kept.
unset PYTHONDONTWRITEBYTECODE

PYTHON=${PYTHON:-python3.11}
VENV=.venv
STAMP=$VENV/var/setup

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Everything the environment is made from. The absolute path counts: a moved .venv no longer works.
fingerprint() {
    pwd -P
    cat requirements.lock requirements-vehicle.txt pyproject.toml setup.py setup.cfg tools/*.sh tools/build_interfaces.py
    find ros_ws/src/mmmt_msgs ros_ws/pip_interfaces -type f -print0 | sort -z | xargs -0 cat
}

missing_system_packages() {
    local library command known
    # Not through a pipe: grep -q hangs up early, which pipefail would take for a failure of ldconfig.
    known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p)
    for library in libusb-1.0.so.0=libusb-1.0-0 libGL.so.1=libgl1 libEGL.so.1=libegl1 libX11.so.6=libx11-6 \
                   libgomp.so.1=libgomp1; do
        grep -qF "${library%=*} " <<<"$known" || echo "${library#*=}"
    done
    for command in cmake=cmake make=make cc=gcc c++=g++; do
        command -v "${command%=*}" >/dev/null || echo "${command#*=}"
    done
    if ! command -v "$PYTHON" >/dev/null; then
        echo python3.11 python3.11-venv python3.11-dev
    else
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3.11-venv
        "$PYTHON" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo python3.11-dev
    fi
}

install_system_packages() {
    local missing
    missing=$(missing_system_packages | tr '\n' ' ')
    [ -z "$missing" ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ "${MMMT_SETUP_APT:-yes}" != no ]; then
        say "installing system packages: $missing"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086  # a list of words
        apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; } ||
            die "apt-get could not install: $missing"
    else
        die "this machine lacks system packages; as root: apt-get install $missing"
    fi
}

check_machine() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        die "the lock file is for Linux on x86-64; elsewhere build with colcon in your own ROS 2 (see README.md)"
    "$PYTHON" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' ||
        die "$PYTHON is not Python 3.11, which the lock file is for; name one: make setup PYTHON=/path/to/python3.11"
    if [ -e $VENV ] && ! $VENV/bin/python -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))'; then
        die "$VENV has no working Python 3.11; remove it (make distclean) and run again"
    fi
}

install_python_packages() {
    [ -e $VENV/bin/python ] || "$PYTHON" -m venv $VENV
    say "installing $(grep -c '==' requirements.lock) Python packages (3 GB); this takes some minutes"
    # --no-deps: the lock is complete, and a CUDA build of torch must not bring its libraries along. The constraint
    # also holds for the environments in which the few packages are built that have no wheel. --no-compile: of 20,000
    # modules few are ever imported, and those are compiled then.
    local pip=("$VENV/bin/python" -m pip install -qq --no-deps --no-compile --disable-pip-version-check)
    # pip reads the list of every release of every package, which takes it many minutes; uv does without. torch's CPU
    # build is left to pip, whose settings say where it lies.
    "${pip[@]}" "$(grep '^uv==' requirements.lock)"
    if grep -v '^torch==' requirements.lock |
        $VENV/bin/uv pip install -q --python $VENV/bin/python --no-deps --build-constraints requirements.lock -r -; then
        "${pip[@]}" "$(grep '^torch==' requirements.lock)"
    else
        say "uv could not install the packages (see above); pip does it, which takes longer"
        PIP_CONSTRAINT=requirements.lock "${pip[@]}" -r requirements.lock
    fi
    "${pip[@]}" --no-build-isolation -e .
    $VENV/bin/python - <<'EOF'
from importlib.metadata import version

if "cpu" not in version("torch"):
    raise SystemExit(
        f"setup: pip installed torch {version('torch')}, not the CPU build this set-up is for. Point pip to PyTorch's "
        "index of CPU wheels (pip config set global.extra-index-url ...) and run `make distclean setup`; see README.md."
    )
EOF
}

main() {
    # Two `make` at a time (an editor's and one's own) must not install into the same environment at once.
    exec 9<tools/setup.sh
    flock 9

    local wanted
    wanted=$(fingerprint | sha256sum)
    if [ -f $STAMP ] && [ "$(cat $STAMP)" = "$wanted" ] && [ -x $VENV/bin/python ]; then
        return
    fi
    rm -f $STAMP
    install_system_packages
    check_machine
    install_python_packages
    say "building the ROS interfaces (a minute on two idle cores)"
    $VENV/bin/python tools/build_interfaces.py
    mkdir -p "$(dirname $STAMP)"
    printf '%s\n' "$wanted" > $STAMP
    say "done; try: make demo, or $VENV/bin/mmmt --help"
}

# In one line: bash reads a script as it runs it, and a `git pull` may exchange this one meanwhile.
main; exit
