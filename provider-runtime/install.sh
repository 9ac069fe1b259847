#!/usr/bin/env bash
# From nothing to earning: puts lumbung-provider in its place, writes its configuration, looks whether this machine can serve, and
# starts it with systemd, or in the background where there is none. Run again, it upgrades: what runs is finished.
#
#   provider-runtime/install.sh --gateway https://api.example [OPTION…]
#
#   --model MODEL       a folder, a .gguf file or a Hugging Face id (default: the bundled model, for a try)
#   --model-id ID       its id in the gateway's catalogue
#   --set KEY=VALUE     any other setting: `lumbung-provider config reference` lists them
#   --program FILE      a program that is built already (default: cargo builds it from this checkout)
#   --features LIST     for cargo: cuda, metal
#   --prefix FOLDER     where the program goes, in bin (default: /usr/local for root, ~/.local for others)
#   --user              for this user alone, also as root
#   --no-systemd        in the background, also where systemd is
#   --no-start          everything but starting it
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PROGRAM=
FEATURES=
PREFIX=
WHOSE=system
SYSTEMD=yes
START=yes
SETTINGS=()

main() {
  read_options "$@"
  choose_places
  put_program
  put_settings
  "$BIN" config check --config "$CONFIG" || die "the settings in $CONFIG are not right; see above"
  "$BIN" doctor --config "$CONFIG" --data-dir "$DATA" || die "this machine cannot serve yet; do what is said above, then run this again"
  [ "$START" = yes ] || return 0
  if [ "$SYSTEMD" = yes ] && has_systemd; then
    put_unit
    start_unit
  else
    start_in_background
  fi
  wait_until_connected
  say "it serves. From now on:"
  echo "  $BIN status --data-dir $DATA      # and pause, resume, drain, earnings"
}

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
    --gateway | --model | --model-id)
      [ $# -ge 2 ] || die "$1 needs a value"
      SETTINGS+=("${1#--}=$2")
      shift
      ;;
    --set)
      [[ ${2:-} == *=* ]] || die "--set KEY=VALUE"
      SETTINGS+=("$2")
      shift
      ;;
    --program) PROGRAM=${2:?--program FILE} && shift ;;
    --features) FEATURES=${2:?--features LIST} && shift ;;
    --prefix) PREFIX=${2:?--prefix FOLDER} && shift ;;
    --user) WHOSE=user ;;
    --no-systemd) SYSTEMD=no ;;
    --no-start) START=no ;;
    -h | --help)
      sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) die "unknown option $1 (--help)" ;;
    esac
    shift
  done
}

choose_places() {
  [ "$(id -u)" -eq 0 ] || WHOSE=user
  if [ "$WHOSE" = system ]; then
    PREFIX=${PREFIX:-/usr/local}
    CONFIG=/etc/lumbung/provider.toml
    DATA=/var/lib/lumbung-provider
    UNITS=/etc/systemd/system
    CTL=(systemctl)
  else
    PREFIX=${PREFIX:-$HOME/.local}
    CONFIG=${XDG_CONFIG_HOME:-$HOME/.config}/lumbung/provider.toml
    DATA=${XDG_DATA_HOME:-$HOME/.local/share}/lumbung-provider
    UNITS=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    CTL=(systemctl --user)
  fi
  BIN=$PREFIX/bin/lumbung-provider
}

put_program() {
  if [ -z "$PROGRAM" ]; then
    command -v cargo >/dev/null || die "there is no cargo: install Rust (https://rustup.rs), or name a built program by --program"
    say "building; mistralrs is large, so the first time takes a while"
    (cd "$HERE/.." && cargo build --locked --release -p lumbung-provider ${FEATURES:+--features "$FEATURES"})
    PROGRAM=${CARGO_TARGET_DIR:-$HERE/../target}/release/lumbung-provider
  fi
  # Beside, then into its place: a program that runs is not written to.
  install -D -m 755 "$PROGRAM" "$BIN.new"
  mv -f "$BIN.new" "$BIN"
}

# Those that are named now; those of before where none is.
put_settings() {
  if [ ${#SETTINGS[@]} -eq 0 ]; then
    [ -f "$CONFIG" ] || die "--gateway is missing: the gateway's address (--help)"
    say "settings as they are: $CONFIG"
    return
  fi
  local names=" " setting
  for setting in "${SETTINGS[@]}"; do names+="${setting%%=*} "; done
  if [[ $names != *" model "* && $names != *" upstream-model "* ]]; then
    say "no --model: the bundled one, which knows this project and little else"
    mkdir -p "$PREFIX/share/lumbung"
    cp -R "$HERE/models/padi" "$PREFIX/share/lumbung/"
    SETTINGS+=("model=$PREFIX/share/lumbung/padi")
    [[ $names == *" model-id "* ]] || SETTINGS+=("model-id=lumbung/padi")
  fi
  mkdir -p "$(dirname "$CONFIG")"
  [ ! -f "$CONFIG" ] || cp -p "$CONFIG" "$CONFIG.old"
  say "settings: $CONFIG"
  # Keys for a server beside it may be among them.
  (umask 077 && for setting in "${SETTINGS[@]}"; do toml_line "${setting%%=*}" "${setting#*=}"; done >"$CONFIG.new")
  mv -f "$CONFIG.new" "$CONFIG"
}

toml_line() {
  local value=$2
  if [[ ! $value =~ ^(true|false|[0-9]+)$ ]]; then
    value=${value//\\/\\\\}
    value=\"${value//\"/\\\"}\"
  fi
  printf '%s = %s\n' "$1" "$value"
}

has_systemd() { command -v systemctl >/dev/null && "${CTL[@]}" show-environment >/dev/null 2>&1; }

put_unit() {
  mkdir -p "$UNITS"
  if [ "$WHOSE" = system ]; then
    sed "s|/usr/local/bin/lumbung-provider|$BIN|" "$HERE/../gateway/deploy/systemd/lumbung-provider.service"
  else
    user_unit
  fi >"$UNITS/lumbung-provider.service"
}

user_unit() {
  cat <<EOF_UNIT
[Unit]
Description=lumbung provider
After=network-online.target

[Service]
Type=notify
# A successor says itself that it is the service's main process.
NotifyAccess=all
ExecStart=$BIN serve --config $CONFIG --data-dir $DATA
ExecReload=$BIN upgrade --data-dir $DATA
Restart=on-failure
RestartSec=5
TimeoutStartSec=infinity
TimeoutStopSec=90
NoNewPrivileges=yes

[Install]
WantedBy=default.target
EOF_UNIT
}

start_unit() {
  "${CTL[@]}" daemon-reload
  if "${CTL[@]}" is-active --quiet lumbung-provider; then
    say "it runs: its successor takes its place"
    "${CTL[@]}" reload lumbung-provider
  else
    "${CTL[@]}" enable --now lumbung-provider
  fi
  # Also while nobody is logged in.
  [ "$WHOSE" = system ] || loginctl enable-linger 2>/dev/null || say "it ends when you log out: loginctl enable-linger is not allowed"
}

start_in_background() {
  mkdir -p "$DATA"
  if "$BIN" status --local --once --data-dir "$DATA" >/dev/null 2>&1; then
    say "it runs: its successor takes its place"
    "$BIN" upgrade --data-dir "$DATA"
  else
    say "in the background, until this machine stops; its log: $DATA/log"
    setsid "$BIN" serve --config "$CONFIG" --data-dir "$DATA" >>"$DATA/log" 2>&1 </dev/null &
  fi
}

wait_until_connected() {
  say "waiting for a tunnel"
  for _ in $(seq 240); do
    if "$BIN" status --local --once --data-dir "$DATA" 2>/dev/null | grep -q 'connected to'; then
      "$BIN" status --local --once --data-dir "$DATA"
      return
    fi
    sleep 0.5
  done
  die "no tunnel within two minutes: see its log (journalctl, or $DATA/log)"
}

main "$@"
