#!/bin/sh
# Install dlvmguard on a machine, also as a startup script on every boot; or try it from a clone. See --help.
# One file that needs nothing but a POSIX shell, coreutils, findutils and util-linux, so that it can also run on its own.
set -eu

MEGABYTES=200 # for an environment while it is made; 80 to 180 when done
MINUTES=20    # no installation runs for longer, whatever it waits for

PLACE=/opt/dlvmguard
CONFIGURATION=/etc/dlvmguard/config.toml
STATE=/var/lib/dlvmguard
UNITS=/etc/systemd/system
COMMAND=/usr/local/bin/dlvmguard

usage() {
    cat <<'TEXT'
Usage: install.sh [OPTIONS]                   install on this machine, or bring it up to date; as root
       install.sh --rollback                  back to the version before; again: forth
       install.sh --uninstall [--purge]       remove it; --purge also configuration, state, user and group
       install.sh --try [-- ARGUMENTS]        from a clone: look at this machine now, and install nothing
       install.sh --environment DIR EXTRAS    for development: make DIR, as tests/run and make use it
       install.sh --help | --version

Options, each with its environment variable:
  --version X       DLVMGUARD_VERSION     this version. Without it: the clone or the bundle that this file lies in; else
                                          what is installed stays; else the newest. `latest` asks on every run
  --config FILE     DLVMGUARD_CONFIG      put this configuration in force. The new version checks it first; the one it
                                          replaces is kept as config.toml.previous. Without it nothing is overwritten
  --wheelhouse W    DLVMGUARD_WHEELHOUSE  install without a network, from a bundle: its archive, the directory it was
                                          unpacked to, or the gs:// address of either
  --sha256 HEX      DLVMGUARD_SHA256      what is fetched, the archive or dlvmguard's own wheel, must have this hash
  --no-start        DLVMGUARD_NO_START=1  install and enable the services, but do not start them now
  --dry-run         DLVMGUARD_DRY_RUN=1   print every action and change nothing
DLVMGUARD_PYTHON names the Python to use, 3.10 or newer; without it, the system's own. pip reads its usual settings.

On Google Cloud the instance attributes dlvmguard-version and dlvmguard-config (the text itself) stand for the two
options. An option goes before the environment, and that before the metadata.

Everything but the configuration, the state and the units is in /opt/dlvmguard, where `current` is the version in use.
Run again it repairs what is missing and else changes nothing. It may be killed at any point; run it again. It never
runs for more than 20 minutes. Supported: Debian 12 and 13, Ubuntu 22.04 and 24.04.

--try makes a private environment in the clone, .venv, and runs `dlvmguard scan ARGUMENTS` from it. All that it
writes is in .venv: libraries, and what was seen. A second run uses it again and needs no network. Without root it
sees less and says what. Libraries come from where your pip configuration says. Python is DLVMGUARD_PYTHON, or the
first of python3, python3.14 to python3.10 and conda's that suits.

Exit status:
   0  done, or nothing to do; for --try with findings or without
   1  a step failed; the lines above say which
   2  wrong use
   3  this system is not supported; the words say how to go on by hand
   4  not root
   5  another installation, or another apt-get, did not end in time
   6  the index or the bucket could not be reached in time
   7  a checksum or hash does not match; nothing was changed
   8  the new version refuses the configuration; nothing was changed
   9  the new version does not run here; nothing was changed
  10  installed, but a service did not start: journalctl -u dlvmguard-watch; back: install.sh --rollback
  11  there is no version to go back to
 129, 130, 143  ended by a signal; else, for --try, the scan's own
TEXT
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "install.sh: $*"
    exit 1
}

# End with one of the numbers of --help.
give_up() {
    number=$1
    shift
    say "install.sh: $*"
    exit "$number"
}

misuse() {
    say "install.sh: $*"
    say "See ./install.sh --help."
    exit 2
}

main() {
    clone=$(beside)
    case "${1-}" in
        --help | -h) usage ;;
        --version)
            [ $# -eq 1 ] || { on_system "$@"; return; }
            in_clone
            own_version "$clone"
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
        *) on_system "$@" ;;
    esac
}

# The directory that this file lies in; nothing where it has none, as in `curl ... | sh`.
beside() {
    [ ! -f "$0" ] || dirname -- "$(readlink -f -- "$0")"
}

own_version() { sed -n 's/^__version__ = "\(.*\)"$/dlvmguard \1/p' "$1/agent/__init__.py"; }

is_clone() { [ -f "$1/pyproject.toml" ] && [ -d "$1/agent" ]; }

in_clone() {
    is_clone "$clone" || misuse "${clone:-standard input} is not a clone of dlvmguard"
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
    until DEBIAN_FRONTEND=noninteractive timeout --foreground 600 apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null 9<&-; do
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
    place_around_package "$environment/source" || return 1
    if [ -n "$extras" ]; then
        ln -s "$clone/agent" "$environment/source/agent"
    else
        cp -R "$clone/agent" "$environment/source/"
    fi
}

place_around_package() {
    for each in pyproject.toml README.md LICENSE requirements.lock install.sh systemd; do
        [ ! -e "$clone/$each" ] || cp -R "$clone/$each" "$1/" || return 1
    done
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

# --- On the system ---------------------------------------------------------------------------------------------------

on_system() {
    choose "$@"
    [ -n "$dry" ] || [ "$(id -u)" -eq 0 ] || give_up 4 "installing needs root: sudo $0 ...; without root: --try, from a clone"
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
    export PATH
    umask 022
    cd /
    ends=$(($(now) + MINUTES * 60))
    [ "$action" != install_version ] || require_system
    only_one
    sweep
    "$action"
}

# What was asked for, in options and in the environment. The metadata comes later: it may be long in coming.
choose() {
    action=install_version purge=
    version=${DLVMGUARD_VERSION-}
    configuration=${DLVMGUARD_CONFIG-}
    wheelhouse=${DLVMGUARD_WHEELHOUSE-}
    sha256=${DLVMGUARD_SHA256-}
    no_start=$(switch "${DLVMGUARD_NO_START-}")
    dry=$(switch "${DLVMGUARD_DRY_RUN-}")
    while [ $# -gt 0 ]; do
        case "$1" in
            --*=*)
                word=$1
                shift
                set -- "${word%%=*}" "${word#*=}" "$@"
                continue
                ;;
            --version | --config | --wheelhouse | --sha256)
                [ -n "${2-}" ] || misuse "$1 needs a value"
                take "$1" "$2"
                shift
                ;;
            --no-start) no_start=yes ;;
            --dry-run) dry=yes ;;
            --rollback) action=rollback ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            *) misuse "unknown option $1" ;;
        esac
        shift
    done
    [ -z "$purge" ] || [ "$action" = uninstall ] || misuse "--purge goes with --uninstall"
    check_choice
}

switch() {
    case "$1" in '' | 0 | no | false) ;; *) echo yes ;; esac
}

take() {
    case "$1" in
        --version) version=$2 ;;
        --config) configuration=$2 ;;
        --wheelhouse) wheelhouse=$2 ;;
        --sha256) sha256=$2 ;;
    esac
}

check_choice() {
    is_version "$version" || misuse "no version: $version"
    case "$sha256" in *[!0-9a-f]*) misuse "no SHA-256 in small hexadecimal digits: $sha256" ;; esac
    [ -z "$sha256" ] || [ ${#sha256} -eq 64 ] || misuse "a SHA-256 has 64 digits: $sha256"
    configuration=$(absolute "$configuration")
    wheelhouse=$(absolute "$wheelhouse")
    [ -z "$configuration" ] || [ -f "$configuration" ] || misuse "there is no file $configuration"
    case "$wheelhouse" in
        '' | gs://?*) ;;
        *) [ -d "$wheelhouse" ] || [ -f "$wheelhouse" ] || misuse "there is no $wheelhouse" ;;
    esac
}

# A version becomes part of paths.
is_version() {
    case "$1" in
        '' | latest) ;;
        [0-9]*) case "$1" in *[!A-Za-z0-9.+!]*) return 1 ;; esac ;;
        *) return 1 ;;
    esac
}

absolute() {
    case "$1" in '' | /* | gs://*) printf %s "$1" ;; *) printf %s "$PWD/$1" ;; esac
}

require_system() {
    system=$(sed -n -e 's/^ID=//p' -e 's/^VERSION_ID=//p' /etc/os-release 2>/dev/null | tr -d '"' | sort -r | tr '\n' ' ') || :
    case "$system" in
        'debian 12 ' | 'debian 13 ' | 'ubuntu 22.04 ' | 'ubuntu 24.04 ') return ;;
    esac
    give_up 3 "this is ${system:-a system without /etc/os-release }and not Debian 12, 13 or Ubuntu 22.04, 24.04.
By hand, with any Python from 3.10: python3 -m venv DIR && DIR/bin/pip install dlvmguard && DIR/bin/dlvmguard scan
The services are in DIR/share/dlvmguard/systemd, for $UNITS; their ExecStart is to name DIR/bin/dlvmguard."
}

# Progress goes to standard output: what a startup script says on the other one is logged as an error.
note() { printf '%s\n' "$*"; }

# Say what is done and do it; in a dry run only say it.
act() {
    words=$1
    shift
    if [ -n "$dry" ]; then
        note "would $words"
    else
        note "$words"
        "$@"
    fi
}

# Seconds since the start of the machine: its clock is often set while startup scripts run.
now() { cut -d. -f1 /proc/uptime; }

# Run a command for so many seconds at most, and never beyond the time of the whole run.
bounded() {
    seconds=$1
    shift
    left=$((ends - $(now)))
    [ "$left" -gt 0 ] || { say "$MINUTES minutes have passed"; return 124; }
    [ "$seconds" -le "$left" ] || seconds=$left
    timeout --foreground --kill-after=10 "$seconds" "$@"
}

# The lock is on a directory that stays, so that nothing is left behind. It ends with this process and with what
# it started: pip that survives a kill of this script still holds it.
only_one() {
    [ -z "$dry" ] || return 0
    mkdir -p /opt
    exec 9</opt
    flock -n 9 && return
    note "another installation is running; waiting for it"
    flock -w 600 9 || give_up 5 "the other installation did not end within 10 minutes"
}

# What killed runs have left, and what this one has, when it ends.
sweep() {
    [ -z "$dry" ] || return 0
    rm -rf "$PLACE"/.new-* "$PLACE"/.old-* "$PLACE"/.link-* "${CONFIGURATION%/*}"/.new-* "$UNITS"/.dlvmguard-*
}

install_version() {
    find_system_python
    ask_metadata
    decide
    note_choice
    if [ -n "$wanted" ] && runs "$wanted"; then
        [ "$(in_use)" = "$wanted" ] || note "$PLACE/$wanted is there already"
    else
        make_version
    fi
    check_configuration
    make_account
    make_directories
    place_configuration
    use "$wanted"
    settle
}

# Bring everything outside the environments in line with the version in use.
settle() {
    place_units
    place_command
    start_services
    drop_old
}

in_use() { readlink "$PLACE/current" 2>/dev/null || :; }

runs() { [ -x "$PLACE/$1/bin/dlvmguard" ] && bounded 30 "$PLACE/$1/bin/dlvmguard" --version >/dev/null 2>&1; }

find_system_python() {
    unset PYTHONPATH PYTHONHOME
    for python in ${DLVMGUARD_PYTHON:-/usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 /usr/bin/python3.10}; do
        "$python" -I -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && return
    done
    python=${DLVMGUARD_PYTHON:-/usr/bin/python3}
    [ -z "${DLVMGUARD_PYTHON-}" ] || give_up 1 "$DLVMGUARD_PYTHON is no Python from 3.10 with the module venv"
    act "install the package python3" install_package python3
    [ -n "$dry" ] || "$python" -I -c 'import venv' || give_up 1 "$python cannot make environments"
}

install_package() {
    apt_get install -y --no-install-recommends "$1" >/dev/null || {
        apt_get update -q >/dev/null && apt_get install -y --no-install-recommends "$1" >/dev/null
    } || give_up 5 "apt-get could not install $1: another one holds its lock, or the lines above say why"
}

# --- What is to be installed -----------------------------------------------------------------------------------------

# The instance attributes, where the options and the environment say nothing. On a machine that has dlvmguard already
# a metadata server that does not answer changes nothing; on a new one it is worth some waiting.
ask_metadata() {
    configuration_text=
    [ -z "$version" ] || [ -z "$configuration" ] || return 0
    [ -n "${GCE_METADATA_HOST-}" ] || grep -qs Google /sys/class/dmi/id/product_name || return 0
    patience=30
    [ -z "$(in_use)" ] || patience=3
    answer=$(bounded $((patience + 10)) "$python" -I -c "$METADATA" "${GCE_METADATA_HOST:-169.254.169.254}" "$patience") || {
        note "the metadata server did not answer; going on without it"
        return 0
    }
    if [ -z "$version" ]; then
        version=$(printf %s "$answer" | head -n 1)
        is_version "$version" || give_up 2 "the instance attribute dlvmguard-version is no version"
    fi
    [ -n "$configuration" ] || configuration_text=$(printf %s "$answer" | tail -n +2)
}

# Prints the version on the first line, and the configuration on the others; either may be empty. No proxy, whose
# ever it is, may see the question: https://docs.cloud.google.com/compute/docs/metadata/querying-metadata
METADATA='
import sys, time, urllib.error, urllib.request
host, patience = sys.argv[1], float(sys.argv[2])
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
until = time.monotonic() + patience

def once(key):
    url = f"http://{host}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with opener.open(request, timeout=min(5, patience)) as answer:
            if answer.headers.get("Metadata-Flavor") != "Google" or answer.geturl() != url:
                raise OSError("another web server")
            return answer.read(256 * 1024 + 1)
    except urllib.error.HTTPError as error:
        if error.code == 404 and error.headers.get("Metadata-Flavor") == "Google":
            return b""
        raise

def value(key):
    while True:
        try:
            text = once(key)
            break
        except (OSError, ValueError):
            if time.monotonic() > until:
                sys.exit(1)
            time.sleep(0.5)
    if len(text) > 256 * 1024 or b"\0" in text:
        sys.exit(f"install.sh: the instance attribute {key} cannot be used")
    return text.decode("utf-8", "strict").strip()

version, configuration = value("dlvmguard-version"), value("dlvmguard-config")
print(" ".join(version.split()), configuration, sep="\n")
'

# Where the version comes from, and which it is as far as that is known before looking there.
decide() {
    wanted=$version
    if [ -z "$wheelhouse" ] && [ -n "$clone" ] && [ -f "$clone/SHA256SUMS" ] && is_ours "$clone"; then
        wheelhouse=$clone
    fi
    if [ -n "$wheelhouse" ]; then
        source=bundle
        [ "$version" != latest ] || misuse "a bundle has one version; leave out \`latest\`"
        wanted=${version:-$(bundled_version)}
        [ -n "$wanted" ] || misuse "$wheelhouse does not say its version in its name; add --version"
    elif [ -z "$version" ] && [ -n "$clone" ] && is_clone "$clone" && is_ours "$clone"; then
        source=clone
        wanted=$(own_version "$clone" | cut -d' ' -f2)+$(cd "$clone" && digest_of_sources)
    elif [ -z "$version" ] && [ -n "$(in_use)" ] && runs "$(in_use)"; then
        source=installed
        wanted=$(in_use)
    else
        source=index
        [ "$version" != latest ] || wanted=
    fi
}

# In a directory where everybody may write, as /tmp, what lies beside this file may be anybody's.
is_ours() {
    [ -n "$(find "$1" "$1/agent" "$1/wheelhouse" -maxdepth 0 -perm -002 2>/dev/null)" ] || return 0
    note "everybody may write to $1: what lies there beside install.sh is not used"
    return 1
}

digest_of_sources() {
    find agent systemd pyproject.toml requirements.lock install.sh -type f ! -path '*/__pycache__/*' -exec sha256sum {} + |
        LC_ALL=C sort | sha256sum | cut -c1-12
}

bundled_version() {
    case "$wheelhouse" in
        *dlvmguard-*-bundle.tar.gz) printf %s "$wheelhouse" | sed 's/.*dlvmguard-\(.*\)-bundle\.tar\.gz$/\1/' ;;
        gs://*) ;;
        *.tar.gz) tar -xzOf "$wheelhouse" --wildcards '*/requirements.lock' 2>/dev/null | locked_version ;;
        *) locked_version <"$wheelhouse/requirements.lock" 2>/dev/null ;;
    esac
}

locked_version() { sed -n 's/^dlvmguard==\([A-Za-z0-9.+!]*\) .*/\1/p' | head -n 1; }

note_choice() {
    [ "$(in_use)" != "$wanted" ] || [ -n "$dry" ] || return 0
    case "$source" in
        bundle) origin=$wheelhouse ;;
        clone) origin=$clone ;;
        installed) origin="what is installed" ;;
        index) origin="the index" ;;
    esac
    note "dlvmguard ${wanted:-(the newest)} from $origin"
}

# --- An environment --------------------------------------------------------------------------------------------------

# Made aside, tried, and then renamed: under its own name there is never half a version.
make_version() {
    [ "$source" != index ] || find_pip
    if [ -n "$dry" ]; then
        note "would make ${PLACE}/${wanted:-VERSION} with $python"
        wanted=${wanted:-VERSION}
        return
    fi
    mkdir -p "$PLACE"
    free=$(df -Pk "$PLACE" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "${free:-$MEGABYTES}" -ge "$MEGABYTES" ] || give_up 1 "$PLACE needs $MEGABYTES MB of disk, $free are free"
    new=$(mktemp -d "$PLACE/.new-XXXXXX")
    made=$new/environment
    mkdir "$new/tmp"
    note "make $PLACE/${wanted:-...}"
    "$python" -I -m venv --without-pip "$made" || give_up 1 "$python could not make an environment"
    "from_$source"
    runs "$wanted" || finish_environment # the newest of the index may turn out to be here already
}

# The wheel of pip itself is enough; neither the environment nor the system needs it installed.
find_pip() {
    bundled=$("$python" -I -c 'import ensurepip, os; print(os.path.dirname(ensurepip.__file__))' 2>/dev/null) || :
    for pip in "$bundled"/_bundled/pip-*.whl /usr/share/python-wheels/pip-*.whl; do
        [ ! -f "$pip" ] || return 0
    done
    act "install the package python3-pip-whl" install_package python3-pip-whl
    for pip in /usr/share/python-wheels/pip-*.whl; do
        [ -n "$dry" ] || [ -f "$pip" ] || give_up 1 "there is no pip for $python"
    done
}

from_bundle() {
    fetch_bundle
    check_bundle
    for pip in "$new"/bundle/wheelhouse/pip-*.whl; do
        [ -f "$pip" ] || give_up 7 "$wheelhouse holds no pip"
    done
    pip_install --no-index --find-links "$new/bundle/wheelhouse" --require-hashes -r "$new/bundle/requirements.lock"
}

from_index() {
    requirement=dlvmguard${wanted:+==$wanted}
    if [ -n "$sha256" ]; then
        [ -n "$wanted" ] || misuse "--sha256 needs a --version"
        printf '%s --hash=sha256:%s\n' "$requirement" "$sha256" >"$new/own.txt"
        pip_install --no-deps --require-hashes -r "$new/own.txt"
    else
        pip_install --no-deps "$requirement"
    fi
    wanted=${wanted:-$("$made/bin/python" -I -c 'import agent; print(agent.__version__)')}
    is_version "$wanted" || give_up 1 "the index gave no dlvmguard that says its version"
    ! runs "$wanted" || return 0
    pip_install --require-hashes -r "$made/share/dlvmguard/requirements.lock"
}

from_clone() {
    find_pip
    mkdir "$new/source"
    place_around_package "$new/source"
    cp -R "$clone/agent" "$new/source/"
    # Only wheels, but for this one.
    pip_install --no-deps --no-binary dlvmguard "$new/source"
    pip_install --require-hashes -r "$made/share/dlvmguard/requirements.lock"
}

# pip in the environment that is being made. While the index is out of reach, as before the network is up, it is
# asked again for five minutes; what else fails would fail again.
pip_install() {
    unset PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
    patience=$(($(now) + 300))
    until bounded 600 env TMPDIR="$new/tmp" RUSTUP_HOME="$new/tmp" "$made/bin/python" -I "$pip/pip" install --quiet --retries 2 \
        --no-compile --no-warn-script-location --only-binary :all: "$@" >"$new/log" 2>&1 </dev/null; do
        explain_pip
        note "the index cannot be reached yet; trying again"
        sleep 5
    done
}

explain_pip() {
    if grep -Eq 'DO NOT MATCH THE HASHES|Hashes are required' "$new/log"; then
        tail -n 15 "$new/log" >&2
        give_up 7 "what the index or the bundle holds is not what the lock file says"
    fi
    if ! grep -Eq 'NewConnectionError|ConnectTimeout|ReadTimeout|ConnectionReset|ProxyError|SSLError|name resolution' "$new/log"; then
        tail -n 15 "$new/log" >&2
        give_up 1 "pip failed; the lines above say why"
    fi
    [ "$(now)" -lt "$patience" ] || {
        tail -n 5 "$new/log" >&2
        give_up 6 "the index could not be reached within 5 minutes"
    }
}

# A copy that only root can write, so that what was checked is what is installed.
fetch_bundle() {
    mkdir "$new/fetched" "$new/bundle"
    case "$wheelhouse" in
        gs://*) download ;;
        *) cp -RL "$wheelhouse" "$new/fetched/" || give_up 1 "cannot read $wheelhouse" ;;
    esac
    archive=$(find "$new/fetched" -maxdepth 1 -name '*.tar.gz' -type f | head -n 1)
    if [ -n "$archive" ]; then
        [ -z "$sha256" ] || printf '%s  %s\n' "$sha256" "$archive" | sha256sum --check --status ||
            give_up 7 "$wheelhouse does not have the SHA-256 $sha256"
        tar -xzf "$archive" -C "$new/bundle" --strip-components=1 --no-same-owner || give_up 7 "$wheelhouse is no archive"
    else
        [ -z "$sha256" ] || misuse "--sha256 is for a bundle's archive, and $wheelhouse is a directory"
        rmdir "$new/bundle"
        mv "$new/fetched"/* "$new/bundle" || give_up 7 "$wheelhouse is no bundle"
    fi
}

download() {
    if command -v gcloud >/dev/null; then
        set -- gcloud --quiet storage cp --recursive
    elif command -v gsutil >/dev/null; then
        set -- gsutil -q cp -r
    else
        give_up 1 "$wheelhouse needs gcloud or gsutil, and neither is here; fetch it first and name the file"
    fi
    patience=$(($(now) + 300))
    until bounded 300 "$@" "${wheelhouse%/}" "$new/fetched/" >"$new/log" 2>&1 </dev/null; do
        if [ "$(now)" -ge "$patience" ] || grep -Eq 'HTTPError 4|40[134]|denied|matched no' "$new/log"; then
            tail -n 5 "$new/log" >&2
            give_up 6 "$wheelhouse could not be fetched; the lines above say why"
        fi
        note "$wheelhouse cannot be fetched yet; trying again"
        sleep 5
    done
}

# Every file of the bundle is as its checksums say; pip holds the wheels against the lock file once more.
check_bundle() {
    [ -f "$new/bundle/SHA256SUMS" ] && [ -f "$new/bundle/requirements.lock" ] || give_up 7 "$wheelhouse is no bundle of dlvmguard"
    (cd "$new/bundle" && sha256sum --check --strict --quiet SHA256SUMS >&2) || give_up 7 "$wheelhouse is damaged"
    grep -q '  requirements.lock$' "$new/bundle/SHA256SUMS" || give_up 7 "the checksums of $wheelhouse leave out its lock file"
    held=$(locked_version <"$new/bundle/requirements.lock")
    [ "$held" = "$wanted" ] || give_up 7 "$wheelhouse holds dlvmguard ${held:-of no version} and not $wanted"
}

# Importing everything that is used proves that it runs here, and leaves it compiled: the services may not write.
finish_environment() {
    find "$made/bin" -mindepth 1 ! -name 'python*' ! -name dlvmguard -exec rm -f {} +
    sed -i "1s|.*|#!$PLACE/$wanted/bin/python -I|" "$made/bin/dlvmguard"
    chmod -R go-w,a+rX "$made"
    chmod 755 "$made/share/dlvmguard/install.sh"
    if ! bounded 120 "$made/bin/python" -I -c "$IMPORTS" >"$new/log" 2>&1; then
        tail -n 15 "$new/log" >&2
        give_up 9 "dlvmguard $wanted does not run here; the lines above say why"
    fi
    sync -f "$made"
    [ ! -e "$PLACE/$wanted" ] || mv -T "$PLACE/$wanted" "$new/replaced"
    mv -T "$made" "$PLACE/$wanted"
    runs "$wanted" || give_up 9 "dlvmguard $wanted does not run from $PLACE/$wanted"
}

IMPORTS='
import importlib, pkgutil, warnings
warnings.simplefilter("ignore")
import agent
for module in pkgutil.walk_packages(agent.__path__, "agent."):
    importlib.import_module(module.name)
for name in "google.cloud.logging_v2.client", "google.auth.compute_engine", "rich.table", "rich.progress", "pynvml":
    importlib.import_module(name)
'

# --- Around it -------------------------------------------------------------------------------------------------------

# A configuration that was given is copied first, so that what was checked is what is put in force.
check_configuration() {
    given=
    [ -z "$configuration$configuration_text" ] || given=$PLACE/.new-configuration
    if [ -n "$dry" ]; then
        [ -z "$configuration" ] || note "would let version $wanted check $configuration"
        return
    fi
    if [ -n "$configuration" ]; then
        (umask 077 && cat "$configuration" >"$given") || give_up 1 "cannot read $configuration"
    elif [ -n "$given" ]; then
        (umask 077 && printf '%s\n' "$configuration_text" >"$given")
    fi
    if [ -n "$given" ]; then
        cmp -s "$given" "$CONFIGURATION" || accepts "$given" "the configuration given"
    elif [ -f "$CONFIGURATION" ] && [ "$(in_use)" != "$wanted" ]; then
        accepts "$CONFIGURATION" "$CONFIGURATION"
    fi
}

accepts() {
    said=$(bounded 30 "$PLACE/$wanted/bin/dlvmguard" --config "$1" config check 2>&1 >/dev/null) ||
        give_up 8 "$2 is refused by dlvmguard $wanted: $said"
}

make_account() {
    getent group dlvmguard >/dev/null || act "make the group dlvmguard" groupadd --system dlvmguard || give_up 1 "groupadd failed"
    getent passwd dlvmguard >/dev/null || act "make the user dlvmguard" useradd --system --gid dlvmguard --no-create-home \
        --home-dir /nonexistent --shell /usr/sbin/nologin --comment "dlvmguard report" dlvmguard || give_up 1 "useradd failed"
}

make_directories() {
    directory "${CONFIGURATION%/*}" root:root 755
    directory "$STATE" root:dlvmguard 750
    directory "$STATE/collected" root:dlvmguard 750
    directory "$STATE/ledger" dlvmguard:dlvmguard 750
    directory "$STATE/advisories" dlvmguard:dlvmguard 750
}

directory() {
    [ "$(stat -c '%U:%G %a %F' "$1" 2>/dev/null)" != "$2 $3 directory" ] || return 0
    act "make $1, $2 $3" install -d -o "${2%:*}" -g "${2#*:}" -m "$3" "$1"
}

place_configuration() {
    if [ -n "$given" ]; then
        if [ -n "$dry" ] || ! cmp -s "$given" "$CONFIGURATION"; then
            act "put the configuration given in force as $CONFIGURATION" replace_configuration
        fi
        rm -f "$given"
    elif [ ! -e "$CONFIGURATION" ]; then
        act "make $CONFIGURATION" first_configuration
    fi
}

replace_configuration() {
    [ ! -e "$CONFIGURATION" ] || cp -p "$CONFIGURATION" "$CONFIGURATION.previous"
    put_configuration <"$given"
}

first_configuration() {
    put_configuration <<'TEXT'
# The configuration of dlvmguard. What is not set here has its default; for all settings: dlvmguard config reference
TEXT
}

put_configuration() {
    fresh=${CONFIGURATION%/*}/.new-config.toml
    (umask 077 && cat >"$fresh")
    chgrp dlvmguard "$fresh"
    chmod 640 "$fresh"
    mv -f "$fresh" "$CONFIGURATION"
}

# First the way back, then the way forth: a kill in between loses neither.
use() {
    before=$(in_use)
    [ "$before" != "$1" ] || return 0
    act "use version $1" true
    [ -z "$dry" ] || return 0
    [ ! -d "$PLACE/${before:-.none}" ] || point previous "$before"
    point current "$1"
}

point() {
    ln -sfn "$2" "$PLACE/.link-$1"
    mv -T "$PLACE/.link-$1" "$PLACE/$1"
}

place_units() {
    from=$PLACE/current/share/dlvmguard/systemd
    if [ -n "$dry" ] && [ "$(in_use)" != "$wanted" ]; then
        note "would place the units of version $wanted in $UNITS"
        return
    fi
    for unit in "$from"/dlvmguard-*; do
        cmp -s "$unit" "$UNITS/${unit##*/}" || act "place $UNITS/${unit##*/}" place_unit "$unit"
    done
    for unit in "$UNITS"/dlvmguard-*; do
        [ ! -f "$unit" ] || [ -e "$from/${unit##*/}" ] || act "remove $unit" remove_unit "${unit##*/}"
    done
}

place_unit() {
    install -D -m 644 "$1" "$UNITS/.${1##*/}"
    mv -f "$UNITS/.${1##*/}" "$UNITS/${1##*/}"
}

remove_unit() {
    ! has_systemctl || systemctl_quietly disable "$1" || :
    ! is_booted || systemctl_quietly stop "$1" || :
    rm -f "$UNITS/$1" "$UNITS"/*.wants/"$1"
}

place_command() {
    [ "$(readlink "$COMMAND")" != "$PLACE/current/bin/dlvmguard" ] || return 0
    if [ -e "$COMMAND" ] && [ ! -L "$COMMAND" ]; then
        note "$COMMAND is not ours and stays; dlvmguard is $PLACE/current/bin/dlvmguard"
        return
    fi
    act "link $COMMAND" link_command
}

link_command() {
    mkdir -p "${COMMAND%/*}"
    ln -sfn "$PLACE/current/bin/dlvmguard" "$COMMAND"
}

has_systemctl() { command -v systemctl >/dev/null; }
is_booted() { has_systemctl && [ -d /run/systemd/system ]; }
systemctl_quietly() { bounded 120 systemctl --quiet "$@" >/dev/null 2>&1; }

# Services are left alone while what they run is what they were started with, so whoever stopped one is respected.
start_services() {
    [ "$(running)" != "$(cat "$PLACE/.started" 2>/dev/null)" ] || return 0
    services="dlvmguard-watch.service dlvmguard-report.path dlvmguard-report.timer dlvmguard-advisories.timer"
    if ! has_systemctl; then
        note "systemd is not here: nothing is started"
    elif [ -n "$no_start" ] || ! is_booted; then
        # shellcheck disable=SC2086 # the words above are ours and hold no spaces
        systemctl_quietly is-enabled $services ||
            act "enable the services, which start when the machine does" systemctl_quietly enable $services ||
            note "systemctl enable failed"
    else
        act "start the services" restart_services
    fi
}

# What the services run with: version, units and configuration.
running() { in_use && cat "$UNITS"/dlvmguard-* "$CONFIGURATION" 2>/dev/null | sha256sum; }

restart_services() {
    # shellcheck disable=SC2086 # as above
    { systemctl_quietly daemon-reload && systemctl_quietly enable $services && systemctl_quietly restart $services; } ||
        give_up 10 "a service did not start; see: journalctl -u dlvmguard-watch. To go back: $PLACE/current/share/dlvmguard/install.sh --rollback"
    running >"$PLACE/.new-started"
    mv -f "$PLACE/.new-started" "$PLACE/.started"
}

# The version in use and the one before stay.
drop_old() {
    for old in "$PLACE"/*/; do
        old=${old%/}
        [ -d "$old" ] && [ ! -L "$old" ] || continue
        [ "${old##*/}" = "$(in_use)" ] || [ "${old##*/}" = "$(readlink "$PLACE/previous" || :)" ] || act "remove $old" remove_version "$old"
    done
}

remove_version() {
    mv -T "$1" "$PLACE/.old-${1##*/}"
    rm -rf "$PLACE/.old-${1##*/}"
}

# --- Back and away ---------------------------------------------------------------------------------------------------

rollback() {
    before=$(in_use)
    wanted=$(readlink "$PLACE/previous" 2>/dev/null) || give_up 11 "there is no version to go back to"
    if [ "$wanted" = "$before" ]; then # a run that was killed here
        note "version $before is in use already"
    else
        runs "$wanted" || give_up 11 "the version to go back to, $wanted, is gone or does not run"
        [ ! -f "$CONFIGURATION" ] || [ -n "$dry" ] || accepts "$CONFIGURATION" "$CONFIGURATION"
        act "use version $wanted" point current "$wanted"
    fi
    [ "$wanted" = "$before" ] || [ -n "$dry" ] || point previous "$before"
    settle
    note "a startup script or an instance attribute that names another version brings that back on the next boot"
}

uninstall() {
    for unit in dlvmguard-advisories.timer dlvmguard-advisories.service dlvmguard-report.timer dlvmguard-report.path \
        dlvmguard-report.service dlvmguard-watch.service; do
        [ ! -e "$UNITS/$unit" ] || act "stop and remove $unit" remove_unit "$unit"
    done
    for unit in "$UNITS"/dlvmguard-*; do
        [ ! -e "$unit" ] || act "stop and remove ${unit##*/}" remove_unit "${unit##*/}"
    done
    [ -n "$dry" ] || ! is_booted || { systemctl_quietly daemon-reload && systemctl_quietly reset-failed 'dlvmguard-*'; } || :
    case "$(readlink "$COMMAND")" in "$PLACE"/*) act "remove $COMMAND" rm -f "$COMMAND" ;; esac
    # The last run of a timer is remembered by systemd.
    for path in "$PLACE" /run/dlvmguard /var/lib/systemd/timers/stamp-dlvmguard-report.timer \
        /var/lib/systemd/timers/stamp-dlvmguard-advisories.timer ${purge:+"${CONFIGURATION%/*}" "$STATE"}; do
        [ ! -e "$path" ] || act "remove $path" rm -rf "$path"
    done
    if [ -n "$purge" ]; then
        ! getent passwd dlvmguard >/dev/null || act "remove the user dlvmguard" userdel dlvmguard || give_up 1 "userdel failed; is a process of that user still running?"
        ! getent group dlvmguard >/dev/null || act "remove the group dlvmguard" groupdel dlvmguard || give_up 1 "groupdel failed"
    elif [ -e "$STATE" ] || [ -e "${CONFIGURATION%/*}" ]; then
        note "kept: ${CONFIGURATION%/*}, $STATE, and the user dlvmguard that they belong to; with --purge they go too"
    fi
}

# ---------------------------------------------------------------------------------------------------------------------

new=
clear_away() {
    stop_ticking
    [ -z "$new" ] || rm -rf "$new"
}

trap clear_away EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
main "$@"
