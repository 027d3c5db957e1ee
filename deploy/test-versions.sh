#!/bin/sh
# Runs the tests that need no server in throwaway environments; called by the Makefile as
#   test-versions.sh lowest    with the lowest versions that pyproject.toml admits
#   test-versions.sh pythons   with the pinned versions, on each Python found (3.11 or newer)
# PYTHONS="path path" names the interpreters; TESTS="..." chooses other tests. The checkout's own
# .venv is not touched.
set -eu
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP

is_usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_pythons() {
    for candidate in ${PYTHONS:-python3.11 python3.12 python3.13 python3.14}; do
        if is_usable "$candidate"; then echo "$candidate"; fi
    done
}

# The first one is the oldest: the lowest versions need not have wheels for newer ones.
pythons=$(find_pythons)
if [ -z "$pythons" ]; then
    echo "error: no Python 3.11 or newer found: put one on PATH, or name it with PYTHONS=..." >&2
    exit 1
fi
first=$(echo "$pythons" | head -n 1)
"$first" -m venv "$folder/uv"
"$folder/uv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'
uv="$folder/uv/bin/uv"

# run_tests ENVIRONMENT: imports the checkout from the working directory, as `make test` does.
run_tests() {
    # shellcheck disable=SC2086 # the words are meant to be split
    "$folder/$1/bin/python" -m pytest -q -p no:cacheprovider ${TESTS:---fast}
}

test_lowest() {
    "$uv" pip compile pyproject.toml --all-extras --resolution lowest-direct --quiet \
        --python "$first" --no-header --no-annotate -o "$folder/lowest.txt"
    echo "lowest versions:" $(grep -v '^ ' "$folder/lowest.txt" | cut -d' ' -f1) >&2
    "$uv" venv --quiet --python "$first" "$folder/lowest"
    # The test tools are the newest ones that go with these.
    "$uv" pip install --quiet --python "$folder/lowest/bin/python" \
        --constraint "$folder/lowest.txt" --requirement "$folder/lowest.txt" --group dev
    "$uv" pip install --quiet --python "$folder/lowest/bin/python" --no-deps \
        --no-build-isolation --editable .
    run_tests lowest
}

test_pythons() {
    failed=
    for python in $pythons; do
        version=$("$python" -c 'import platform; print(platform.python_version())')
        echo "Python $version" >&2
        "$uv" venv --quiet --python "$python" "$folder/$version"
        "$uv" pip install --quiet --python "$folder/$version/bin/python" \
            --require-hashes --requirement requirements/dev.txt
        "$uv" pip install --quiet --python "$folder/$version/bin/python" --no-deps \
            --no-build-isolation --editable .
        run_tests "$version" || failed="$failed $version"
    done
    if [ -n "$failed" ]; then
        echo "error: tests failed on Python$failed." >&2
        exit 1
    fi
}

"test_$1"
