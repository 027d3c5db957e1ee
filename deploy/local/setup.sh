#!/bin/sh
# Sets up the checkout; called by the Makefile as `setup.sh python|web|requirements`.
# Returns fast when its stamp shows that these very pins are installed. A stamp is removed before work
# begins and written after all of it has succeeded.
set -eu
cd "$(dirname "$0")/../.."

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "error: PYTHON=$PYTHON is not a Python 3.11 or newer." >&2
    else
        echo "error: Python 3.11 or newer is needed, and none is on PATH:" \
            "install one (https://www.python.org/downloads/), or name it with PYTHON=..." >&2
    fi
    exit 1
}

# with_progress LOG LABEL PATTERN COMMAND...: runs the command with its output in LOG; meanwhile shows
# how many of its lines match PATTERN, and the seconds; on failure shows the end of LOG.
with_progress() {
    log=$1 label=$2 pattern=$3
    shift 3
    "$@" >"$log" 2>&1 &
    child=$!
    trap 'kill $child 2>/dev/null; exit 130' INT TERM HUP
    seconds=0
    while kill -0 $child 2>/dev/null; do
        line="  $label, $(grep -c "$pattern" "$log" 2>/dev/null || true) so far ($seconds s)"
        if [ -t 2 ]; then
            printf '\r\033[K%s' "$line" >&2
        elif [ $seconds -gt 0 ] && [ $((seconds % 15)) -eq 0 ]; then
            echo "$line" >&2
        fi
        sleep 1
        seconds=$((seconds + 1))
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
    status=0
    wait $child || status=$?
    trap - INT TERM HUP
    if [ $status -ne 0 ]; then
        tail -n 15 "$log" >&2
        echo "error: this step failed; the lines above show the end of $log." >&2
        exit 1
    fi
}

setup_python() {
    stamp=.venv/stamp-$(cat requirements/dev.txt pyproject.toml | cksum | tr ' ' '-')
    if [ -f "$stamp" ] && [ -x .venv/bin/python ]; then return; fi
    python=$(find_python)
    version=$("$python" -c 'import platform; print(platform.python_version())')
    echo "Setting up .venv with Python $version" >&2
    mkdir -p .run
    rm -f .venv/stamp-*
    # An environment whose interpreter is missing or too old is made anew.
    if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        rm -rf .venv
        # On Debian and Ubuntu the error names the package python3-venv when it is missing.
        with_progress .run/venv.log "making the environment" '^$' "$python" -m venv .venv
    fi
    with_progress .run/pip.log "installing packages" '^Collecting\|^Requirement already' \
        .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
        --require-hashes -r requirements/dev.txt
    with_progress .run/pip-editable.log "installing the checkout" '^Successfully built' \
        .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
        --no-deps --no-build-isolation -e .
    : >"$stamp"
}

# livekit-client for the viewer's page. Without npm the page imports it from a CDN instead.
setup_web() {
    if [ ! -f viewer/static/package-lock.json ] || ! command -v npm >/dev/null 2>&1; then return; fi
    stamp=viewer/static/node_modules/stamp-$(cksum <viewer/static/package-lock.json | tr ' ' '-')
    if [ -f "$stamp" ]; then return; fi
    echo "Setting up the viewer's page" >&2
    rm -f viewer/static/node_modules/stamp-*
    mkdir -p .run
    with_progress .run/npm.log "fetching packages" '^added' \
        npm ci --prefix viewer/static --no-audit --no-fund
    : >"$stamp"
}

setup_requirements() {
    python=$(find_python)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'
    export UV_CUSTOM_COMPILE_COMMAND="make requirements"
    for file in dev run; do
        if [ $file = dev ]; then
            more="--group dev"
        else
            more="-c requirements/dev.txt" # production runs the versions that were tested
        fi
        # shellcheck disable=SC2086 # the words are meant to be split
        "$folder/venv/bin/uv" pip compile pyproject.toml --all-extras $more --quiet \
            --universal --python-version 3.11 --generate-hashes \
            --no-emit-index-url --no-emit-find-links ${UPGRADE:+--upgrade} \
            -o requirements/$file.txt
        echo "  requirements/$file.txt: $(grep -c '==' requirements/$file.txt) packages" >&2
    done
}

"setup_$1"
