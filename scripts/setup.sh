#!/usr/bin/env bash
# Sets up the virtual environment FOLDER (default .venv) with everything pinned in constraints.txt.
# On Debian and Ubuntu it also installs Python and venv where they are missing. It may be run again at any time,
# also after an interrupted run: the mark FOLDER/.installed is only left by a run that went through.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv="${1:-.venv}"
oldest_minor=11
started=$SECONDS

say() { printf 'foresail setup: %s\n' "$*"; }
fail() { printf 'foresail setup: error: %s\n' "$*" >&2; exit 1; }

new_enough() { "$1" -c "import sys; sys.exit(sys.version_info < (3, $oldest_minor))" 2>/dev/null; }
can_make_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
    if command -v "$name" >/dev/null && new_enough "$name"; then
      printf '%s' "$name"
      return 0
    fi
  done
  return 1
}

apt_install() {
  local as_root=()
  command -v apt-get >/dev/null || fail "please install $* (no apt-get here), then run this again"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "please run as root: apt-get install $* (no sudo here), then run this again"
    as_root=(sudo)
  fi
  say "installing system packages: $*"
  "${as_root[@]}" apt-get update -q || say "apt-get update failed, trying with the package lists at hand"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
    return 1
}

install_python() {
  apt_install python3 python3-venv || fail "apt-get could not install python3 and python3-venv"
  find_python >/dev/null && return 0
  local minor
  for minor in 13 12 11; do # an older release that packages a newer Python beside its own
    apt-cache show "python3.$minor-venv" >/dev/null 2>&1 || continue
    apt_install "python3.$minor" "python3.$minor-venv" && return 0
  done
  return 0
}

find_python >/dev/null || install_python
python="$(find_python)" || fail "Python 3.$oldest_minor or newer is needed; install one, or name it: make install PYTHON=/path/to/python3"
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
can_make_venvs "$python" || apt_install "python$version-venv" || fail "apt-get could not install python$version-venv"
can_make_venvs "$python" || fail "$python cannot make virtual environments (no venv or ensurepip), and python$version-venv did not help"

# The live tests talk to a real Prometheus and a real PostgreSQL, and reports are looked at in a real Chromium. Without
# them everything else works, so that a machine that cannot install them goes on, and those tests say why they skip.
missing=()
command -v prometheus >/dev/null || missing+=(prometheus)
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
command -v chromium >/dev/null || missing+=(chromium)
if [ "${#missing[@]}" -gt 0 ]; then
  (apt_install "${missing[@]}") || say "going on without ${missing[*]}: \`foresail live\` and live tests need them"
fi

say "[1/4] Python $version ($(command -v "$python")) -> $venv"
rm -f "$venv/.installed"
if ! { [ -x "$venv/bin/python" ] && new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
  "$python" -m venv --clear "$venv" # none yet, or an interrupted or stale one
fi

say "[2/4] installing Foresail and its pinned dependencies (2.2 GB on disk; minutes on the first run)"
if [ -n "${UV_FIND_LINKS:-}" ] && [ -z "${PIP_FIND_LINKS:-}" ]; then
  export PIP_FIND_LINKS="${UV_FIND_LINKS//,/ }" # a local wheel folder that was set up for uv serves pip as well
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
# --no-compile: compiling every module ahead takes longer than all the rest, and most are never imported.
"$venv/bin/python" -m pip install --no-compile -c constraints.txt -e '.[dev,keda,live,postgres,ray]' ||
  fail "pip could not install the dependencies (see above); run the same command again to go on from here"

say "[3/4] checking"
"$venv/bin/python" -m foresail --version

say "[4/4] compiling the simulator, so that its first use need not (half a minute)"
"$venv/bin/python" -m simulations.kernel || say "going on: it will be compiled when it is first used"
touch "$venv/.installed"
say "done in $((SECONDS - started)) s"
