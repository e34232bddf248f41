#!/bin/sh
# Try dlvmguard from this clone: ./install.sh --try. See ./install.sh --help.
# One file that needs nothing but a POSIX shell, coreutils and findutils, so that it can also run on its own.
set -eu

MEGABYTES=200 # for an environment while it is made; 80 to 180 when done

usage() {
    cat <<'TEXT'
Usage: ./install.sh --try [-- ARGUMENTS]      look at this machine now, and install nothing
       ./install.sh --environment DIR EXTRAS  for development: make DIR, as tests/run and make use it
       ./install.sh --help | --version

--try makes a private environment in the clone, .venv, and runs `dlvmguard scan ARGUMENTS` from it. All that it
writes is in .venv: libraries, and what was seen. A second run uses it again and needs no network. Without root it
sees less and says what. Libraries come from where your pip configuration says.

DLVMGUARD_PYTHON names the Python to use, 3.10 or newer. Without it python3, python3.14 to python3.10 and conda's
are tried in this order.

Exit status: 0 done, with findings or without; 1 it could not be set up; 2 wrong use; 130 interrupted; else the
scan's own.
Installing dlvmguard on the system, with its services, is not part of this version.
TEXT
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "install.sh: $*"
    exit 1
}

misuse() {
    say "install.sh: $*"
    say "See ./install.sh --help."
    exit 2
}

main() {
    clone=$(dirname -- "$(readlink -f -- "$0")")
    case "${1-}" in
        --help | -h) usage ;;
        --version)
            in_clone
            sed -n 's/^__version__ = "\(.*\)"$/dlvmguard \1/p' "$clone/agent/__init__.py"
            ;;
        --try)
            shift
            [ $# -eq 0 ] || [ "$1" = -- ] || misuse "unexpected $1; arguments for the scan come after --"
            [ $# -eq 0 ] || shift
            in_clone
            try "$@"
            ;;
        --environment)
            [ $# -eq 3 ] || misuse "--environment needs a directory and extras, as in: --environment .venv-test test"
            in_clone
            case "$2" in
                /*) prepare "$2" "$3" ;;
                *) prepare "$PWD/$2" "$3" ;;
            esac
            ;;
        '') misuse "say what to do: --try looks at this machine from the clone; installing on the system is not part of this version" ;;
        *) misuse "unknown option $1" ;;
    esac
}

in_clone() {
    [ -f "$clone/pyproject.toml" ] && [ -d "$clone/agent" ] || misuse "$clone is not a clone of dlvmguard"
}

try() {
    prepare "$clone/.venv" ""
    status=0
    "$clone/.venv/bin/dlvmguard" --state-dir "$clone/.venv/state" scan "$@" || status=$?
    [ "$status" -le 1 ] || exit "$status"
    say ""
    say "Again:   $(quoted "$clone/.venv/bin/dlvmguard") --state-dir $(quoted "$clone/.venv/state") scan"
    say "Remove:  rm -rf $(quoted "$clone/.venv")"
}

# A word as a shell reads it back: bare where it can be.
quoted() {
    case "$1" in
        *[!a-zA-Z0-9/._+-]*) printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
        *) printf %s "$1" ;;
    esac
}

# Make the environment $1 with dlvmguard and its extras $2 in it, unless it is there already.
# For a try it holds a copy of the package; with extras, for development, the package stays where it is.
prepare() {
    environment=$1
    extras=$2
    unset PYTHONPATH PYTHONHOME # what is in the environment counts, for the scan too
    one_at_a_time
    stamp=$(describe)
    if [ "$(cat "$environment/stamp" 2>/dev/null)" = "$stamp" ] &&
        "$environment/bin/python" -I -c 'import agent.cli' 2>/dev/null; then
        exec 9<&-
        return
    fi
    find_python
    claim
    say "Making $environment with $python (about half a minute, longer on a slow network) ..."
    tick_on_a_terminal
    build || { empty; fail "$environment could not be made; the lines above say why"; }
    stop_ticking
    printf '%s\n' "$stamp" >"$environment/stamp" || fail "cannot write to $environment"
    exec 9<&-
}

# Two runs in one clone wait for each other. The lock is on the clone itself and ends with this process.
one_at_a_time() {
    command -v flock >/dev/null || return 0
    exec 9<"$clone"
    flock -n 9 && return 0
    say "Another run is making an environment here; waiting for it ..."
    flock -w 900 9 || fail "the other run did not end within 15 minutes"
}

# What the environment was made from. Anything else means making it anew.
describe() {
    printf '%s\n' "$clone" "$environment" "$extras" "${DLVMGUARD_PYTHON-}"
    cd "$clone"
    sources="pyproject.toml"
    [ -n "$extras" ] || sources="$sources agent"
    # shellcheck disable=SC2086 # the words above are ours and hold no spaces
    find $sources -type f ! -path '*/__pycache__/*' -exec sha256sum {} + | LC_ALL=C sort | sha256sum
}

# Take the directory, or what an interrupted run left of it; never one that somebody else made.
claim() {
    mkdir -p "$environment" 2>/dev/null || fail "cannot write to $(dirname -- "$environment"); is it read-only, full or another user's?"
    if [ ! -e "$environment/made-by-install.sh" ] && [ -n "$(ls -A "$environment")" ]; then
        fail "$environment is there and not made by install.sh; move it away first"
    fi
    { true >"$environment/made-by-install.sh"; } 2>/dev/null || fail "cannot write to $environment; another user's? Then: sudo rm -rf $(quoted "$environment")"
    empty
    free=$(df -Pk "$environment" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "${free:-$MEGABYTES}" -ge "$MEGABYTES" ] || fail "$environment needs $MEGABYTES MB of disk, $free are free"
}

# Everything but what scans remembered.
empty() {
    find "$environment" -mindepth 1 -maxdepth 1 ! -name state ! -name made-by-install.sh -exec rm -rf {} + || fail "cannot clear $environment; another user's? Then: sudo rm -rf $(quoted "$environment")"
}

# The first Python that is new enough and can make environments; else one that lacks only the package for that.
find_python() {
    if [ -n "${DLVMGUARD_PYTHON-}" ]; then
        set -- "$DLVMGUARD_PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10 /opt/conda/bin/python3
    fi
    looked=
    incomplete=
    for candidate in "$@"; do
        python=$(command -v "$candidate") || continue
        answer=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2], end=" ")
if sys.version_info >= (3, 10): print("suitable"); import ensurepip; print("whole")' 2>/dev/null) || :
        case "$answer" in
            *whole) return ;;
            *suitable) incomplete=${incomplete:-$python} ;;
        esac
        looked="$looked${looked:+, }$python ($(printf %s "${answer:-does not run}" | head -n 1))"
    done
    [ -n "$incomplete" ] || fail "no Python 3.10 or newer. Looked for $*; found ${looked:-none}. $(python_advice)"
    python=$incomplete
    add_venv
}

python_advice() {
    if [ -z "$looked" ] && command -v apt-get >/dev/null; then
        say_command "install -y python3 python3-venv"
    else
        printf %s "Install one and name it: DLVMGUARD_PYTHON=/path/to/python3 ./install.sh --try"
    fi
}

say_command() {
    sudo=sudo
    [ "$(id -u)" -ne 0 ] || sudo=
    printf %s "Run: ${sudo:+sudo }apt-get $*"
}

# Debian and Ubuntu keep what makes environments in a package of its own.
add_venv() {
    case "$python" in
        /usr/bin/python3 | /bin/python3) package=python3-venv ;;
        /usr/bin/* | /bin/*) package=${python##*/}-venv ;;
        *) fail "$python has no ensurepip, so it cannot make environments; name another with DLVMGUARD_PYTHON" ;;
    esac
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        fail "$python cannot make environments without the package $package. $(say_command "install -y $package")"
    fi
    say "Installing $package ..."
    apt_get install -y --no-install-recommends "$package" >/dev/null 2>&1 || {
        apt_get update -q >/dev/null
        apt_get install -y --no-install-recommends "$package" >/dev/null
    } || fail "apt-get could not install $package; the lines above say why"
}

# Another apt-get, as on a machine that has just started, gets five minutes to end.
apt_get() {
    waited=0
    until DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null 9<&-; do
        [ "$1" = update ] && [ "$waited" -lt 300 ] || return 1
        waited=$((waited + 10)) # the lock of the package lists has no timeout of its own
        sleep 10
    done
}

build() {
    mkdir "$environment/tmp" "$environment/source" &&
        quietly "$python" -m venv "$environment" &&
        place_source &&
        install_source &&
        rm -rf "$environment/tmp" "$environment/log" &&
        { [ -n "$extras" ] || rm -rf "$environment/source"; }
}

# Building in the clone itself would leave build/ and *.egg-info there.
place_source() {
    for each in pyproject.toml README.md LICENSE; do
        [ ! -e "$clone/$each" ] || cp "$clone/$each" "$environment/source/" || return 1
    done
    if [ -n "$extras" ]; then
        ln -s "$clone/agent" "$environment/source/agent"
    else
        cp -R "$clone/agent" "$environment/source/"
    fi
}

install_source() {
    # --user in a pip configuration cannot work in an environment; a prompt would wait unseen.
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
    if [ -n "$extras" ]; then
        set -- --editable ".[$extras]"
    else
        set -- --no-compile . # compiling what is used when it is used is quicker than compiling every library
    fi
    (cd "$environment/source" && quietly "$environment/bin/python" -I -m pip install --quiet "$@")
}

# Run without a word; what it said is shown if it failed. An interrupted one would say only where it was.
quietly() {
    # pip asks rustc for its version, and rustup's writes to the home directory.
    TMPDIR="$environment/tmp" RUSTUP_HOME="$environment/tmp" "$@" >"$environment/log" 2>&1 </dev/null && return
    stop_ticking
    tail -n 15 "$environment/log" >&2
    return 1
}

ticker=
tick_on_a_terminal() {
    [ -t 2 ] || return 0
    while sleep 2 && kill -0 $$ 2>/dev/null; do printf . >&2; done 9<&- &
    ticker=$!
}

stop_ticking() {
    [ -n "$ticker" ] || return 0
    kill "$ticker" 2>/dev/null || :
    ticker=
    say ""
}

trap stop_ticking EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
main "$@"
