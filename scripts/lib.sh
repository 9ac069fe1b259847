# shellcheck shell=bash disable=SC2034
# Sourced by every script here: where things are kept, and how a script speaks and stops.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is built or downloaded goes here, outside the checkout, and survives `git clean`.
CACHE=${LUMBUNG_CACHE:-$HOME/.cache/lumbung}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
BIN=$CARGO_TARGET_DIR/release

# One selection of packages and one profile for the demo, the tests and what is shipped: with another
# selection cargo would unify features differently and compile mistralrs a second time.
BUILD=(--locked --release --workspace)

CARGO_DENY=0.20.2
CARGO_DENY_DIR=$CACHE/cargo-deny-$CARGO_DENY

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# have_server PROGRAM: the same for those that Debian keeps where only root's PATH looks.
have_server() { PATH=$PATH:/usr/sbin:/sbin have "$1"; }

# need_packages PACKAGE...: installs Debian packages, or says which are missing and stops.
need_packages() {
  [ $# -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    die "missing Debian packages: $*
  as root:  apt-get update && apt-get install --no-install-recommends $*
  then run this again"
  fi
  have apt-get || die "please install what Debian calls: $*"
  say "installing from Debian: $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# is_taken PORT: whether somebody listens there on loopback.
is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: a port that nobody listens on, outside the kernel's range for outgoing connections.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((10240 + RANDOM % 20000))
    if ! is_taken "$port"; then
      echo "$port"
      return
    fi
  done
  die "no free port found"
}

# Where Debian keeps the server programs of Postgres, the newest first; empty if there is none.
postgres_bin() {
  if have initdb; then
    dirname "$(command -v initdb)"
  else
    find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2>/dev/null | sort -V | tail -n 1
  fi
}

# The SDKs' environment is named after what is in it, so that a changed pin makes a new one.
sdk_dir() {
  local sum
  sum=$(cat "$ROOT"/gateway/tests/sdk/{requirements.txt,requirements-spec.txt,package-lock.json} | sha256sum)
  echo "$CACHE/sdk-${sum:0:12}"
}

# The environment that the documentation is built in, likewise.
site_dir() {
  local sum
  sum=$(sha256sum <"$ROOT/gateway/docs/requirements.txt")
  echo "$CACHE/site-${sum:0:12}"
}
