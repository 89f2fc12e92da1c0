# shellcheck shell=bash
# An engine of its own for test-container.sh; sourced, not run. It lives in namespaces of its own, so whatever ends the
# script, a SIGKILL included, ends the engine, its containers and their mounts with it. What it changes in the network of
# this machine is put back.

engine=  # the process whose end is the end of all of it; empty while there is none of ours
firewall=

# start_engine STORAGE_DRIVER FOLDER
start_engine() {
    local driver=$1 folder=$2
    rm -rf "$folder/exec" "$folder/pid"
    mkdir -p "$folder/data" "$folder/exec"
    [ -n "$firewall" ] || firewall=$(iptables-save -t filter && iptables-save -t nat) || firewall=
    [ -e /sys/class/net/docker0 ] || bridge=ours
    setpriv --pdeathsig KILL unshare --mount --pid --mount-proc --kill-child \
        dockerd --storage-driver="$driver" --host "unix://$folder/docker.sock" --data-root "$folder/data" \
        --exec-root "$folder/exec" --pidfile "$folder/pid" >"$folder/engine.log" 2>&1 9>&- &
    engine=$!
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1; then return 0; fi
        if ! kill -0 "$engine" 2>/dev/null; then break; fi
        sleep 0.5
    done
    stop_engine
    return 1
}

# The engine itself, as this machine counts processes.
engine_process() { tr -d ' ' <"/proc/$engine/task/$engine/children"; }

stop_engine() {
    [ -n "$engine" ] || return 0
    kill "$(engine_process)" 2>/dev/null || true
    for _ in $(seq 40); do
        if ! kill -0 "$engine" 2>/dev/null; then break; fi
        sleep 0.5
    done
    kill -KILL "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    engine=
    if [ "${bridge:-}" = ours ]; then ip link delete docker0 2>/dev/null || true; fi
    if [ -n "$firewall" ]; then iptables-restore <<<"$firewall" 2>/dev/null || true; fi
}

# Runs a command where the engine's process numbers and mounts hold.
beside_engine() {
    if [ -n "$engine" ]; then
        nsenter --target "$(engine_process)" --mount --pid -- "$@"
    else
        "$@"
    fi
}
