# SPDX-License-Identifier: Apache-2.0
#
# A Slipstream of real processes on this machine, for scripts: source it, set the variables below,
# call system_start, and system_stop at the end. Bash.
#
#   BIN          folder of the programs
#   SYS_DIR      folder for configuration, logs, sockets and shared memory; system_new makes one
#   ENGINES      how many simulated engines              (4)
#   WORKERS      how many gateway workers                (2)
#   PROFILE      time model of the engines               (70b)
#   TIME_SCALE   model seconds per real second           (20)
#   POLICY       placement policy of the scheduler       (workflow)
#
# Afterwards PORT is the gateways' address on 127.0.0.1, ADMIN_PORT that of the first worker's admin
# listener, ENGINE_URLS the engines, with commas.

: "${ENGINES:=4}" "${WORKERS:=2}" "${PROFILE:=70b}" "${TIME_SCALE:=20}" "${POLICY:=workflow}"
SYS_PREFIX=${XDG_RUNTIME_DIR:-/tmp}/slipstream-demo

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# True while somebody listens there.
port_is_used() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# port_find FIRST COUNT: the first of COUNT free ports in a row, at FIRST or later.
port_find() {
    local port=$1 i
    while :; do
        for ((i = 0; i < $2; i++)); do
            port_is_used $((port + i)) && break
        done
        [ "$i" -eq "$2" ] && break
        port=$((port + i + 1))
        [ "$port" -lt 65000 ] || die "no free ports at $1 or above"
    done
    echo "$port"
}

system_new() {
    SYS_DIR=$(mktemp -d "$SYS_PREFIX-XXXXXX")
    mkdir "$SYS_DIR/run"
    PORT=$(port_find "${PORT:-8080}" 1)
    ADMIN_PORT=$(port_find "${ADMIN_PORT:-9080}" "$WORKERS")
    ENGINE_PORT=$(port_find "${ENGINE_PORT:-9101}" "$ENGINES")
    ENGINE_URLS=
    local i
    for ((i = 0; i < ENGINES; i++)); do
        ENGINE_URLS+=${ENGINE_URLS:+,}http://127.0.0.1:$((ENGINE_PORT + i))
    done
}

# The configuration that all processes read.
system_conf() {
    cat <<CONF
common:
  run_dir: $SYS_DIR/run
  log_level: ${LOG_LEVEL:-info}
  time_scale: $TIME_SCALE
gateway:
  listen: ["127.0.0.1:$PORT"]
  admin_listen: ["127.0.0.1:$ADMIN_PORT"]
  first_byte_timeout_ms: 10m
scheduler:
  policy: "$POLICY"
  gate_wait_ms: 10m
engines:
CONF
    local i
    for ((i = 0; i < ENGINES; i++)); do
        cat <<CONF
  - id: e$((i + 1))
    url: http://127.0.0.1:$((ENGINE_PORT + i))
    models: [sim]
CONF
    done
}

# process_start NAME PROGRAM ARGS...: in the background and in a session of its own, so that neither
# Ctrl-C nor the end of the terminal reaches it; log in SYS_DIR/NAME.log.
process_start() {
    local name=$1
    shift
    setsid "$@" >>"$SYS_DIR/$name.log" 2>&1 </dev/null &
    printf '%s %s\n' $! "$name" >>"$SYS_DIR/pids"
    disown $!
}

process_pid() {
    sed -n "s/^\([0-9]*\) $1\$/\1/p" "$SYS_DIR/pids" | tail -n 1
}

# Ended ones that nobody has waited for do not count.
process_is_alive() {
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null && [[ $stat != *') Z '* ]]
}

# Numbers are used again: only what is one of our programs is ever signalled.
process_is_ours() {
    process_is_alive "$1" && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q 'slipstream-'
}

# process_wait NAME URL: until it answers 200; fails, with its log, when the process ends or 20 s pass.
process_wait() {
    local pid i
    pid=$(process_pid "$1")
    for ((i = 0; i < 200; i++)); do
        [ "$(curl -s -o /dev/null -m 2 -w '%{http_code}' "$2")" = 200 ] && return 0
        process_is_alive "$pid" || break
        sleep 0.1
    done
    process_show_log "$1" "$2 did not answer 200"
    return 1
}

# process_wait_file NAME PATH: until it has made that file.
process_wait_file() {
    local pid i
    pid=$(process_pid "$1")
    for ((i = 0; i < 200; i++)); do
        [ -e "$2" ] && return 0
        process_is_alive "$pid" || break
        sleep 0.1
    done
    process_show_log "$1" "$2 did not appear"
    return 1
}

process_show_log() {
    printf '%s: %s. Its log:\n' "$1" "$2" >&2
    tail -n 30 "$SYS_DIR/$1.log" | sed 's/^/    /' >&2
}

# After a failure: every process of ours that is gone, with its log.
system_show_dead() {
    local pid name
    [ -f "${SYS_DIR:-}/pids" ] || return 0
    while read -r pid name; do
        process_is_alive "$pid" || process_show_log "$name" "has ended"
    done <"$SYS_DIR/pids"
}

system_start() {
    local i
    : >"$SYS_DIR/pids"
    rm -rf "$SYS_DIR/run"
    mkdir "$SYS_DIR/run"
    system_conf >"$SYS_DIR/slipstream.yaml"
    for ((i = 1; i <= ENGINES; i++)); do
        process_start "engine-$i" "$BIN/slipstream-engine" --listen "127.0.0.1:$((ENGINE_PORT + i - 1))" \
            --id "e$i" --model sim --profile "$PROFILE" --time-scale "$TIME_SCALE" ${ENGINE_ARGS:-}
    done
    for ((i = 1; i <= ENGINES; i++)); do
        process_wait "engine-$i" "http://127.0.0.1:$((ENGINE_PORT + i - 1))/health"
    done
    process_start scheduler "$BIN/slipstream-scheduler" --config "$SYS_DIR/slipstream.yaml"
    process_start mailbox "$BIN/slipstream-mailbox" --config "$SYS_DIR/slipstream.yaml"
    process_wait_file scheduler "$SYS_DIR/run/sock/scheduler"
    process_wait_file mailbox "$SYS_DIR/run/sock/mailbox"
    for ((i = 1; i <= WORKERS; i++)); do
        process_start "gateway-$i" "$BIN/slipstream-gateway" --config "$SYS_DIR/slipstream.yaml" --instance "$i"
    done
    for ((i = 1; i <= WORKERS; i++)); do
        process_wait "gateway-$i" "http://127.0.0.1:$((ADMIN_PORT + i - 1))/ready"
    done
}

# processes_stop DIR: ends what DIR/pids names, last started first, and waits for it.
processes_stop() {
    local dir=$1 pid name i
    [ -f "$dir/pids" ] || return 0
    while read -r pid name; do
        process_is_ours "$pid" || continue
        kill "$pid" 2>/dev/null || true
        for ((i = 0; i < 100; i++)); do
            process_is_alive "$pid" || break
            sleep 0.05
        done
        if process_is_alive "$pid"; then
            say "$name did not end by itself; killed. Its log ends:" >&2
            tail -n 5 "$dir/$name.log" | sed 's/^/    /' >&2
            kill -9 "$pid" 2>/dev/null || true
        fi
    done < <(tac "$dir/pids")
    rm -f "$dir/pids"
}

system_stop() {
    [ -n "${SYS_DIR:-}" ] || return 0
    processes_stop "$SYS_DIR"
}

system_remove() {
    [ -n "${SYS_DIR:-}" ] || return 0
    system_stop
    rm -rf "$SYS_DIR"
}
