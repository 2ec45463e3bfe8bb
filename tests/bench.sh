#!/usr/bin/env bash
# Side-by-side benchmarks: Drover against what an operator would pick instead (tests/bench/peers.sh), in one run, on
# fresh file systems.
#
#   tests/bench.sh files [CORPUS…]     mails sites large delta noop watched (default: all)
#   tests/bench.sh access              what policy, audit and secrets cost, and what floods of logins and refusals do
#   tests/bench.sh links               a file and 5 000 mails over 100 ms: 300 Mbit/s with and without loss, 20 Mbit/s
#   tests/bench.sh memory [COUNT]      peak memory of the agents at 10 000 and COUNT (default 1 000 000) names
#
# Needs root (loop mounts), a release build's time, and about 15 GiB. ROUNDS sets the timed rounds (default 3), PEERS
# whom Drover is compared with ("drover rsync cp" is a quick look).
# Rules: every timed run writes to a freshly made ext4 with a journal, on a loop device whose blocks were written
# before; one discarded warm-up; the order alternates from round to round; a run starts after `sync` and its clock ends
# after `sync -f`; every copy passes the judge or its time is void; Drover's time includes `file.verify`.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

usage() {
    echo "usage: tests/bench.sh access | files [mails|sites|large|delta|noop|watched …] | links | memory [COUNT]" >&2
    exit 2
}
case "${1:-}" in
access)
    # Needs neither root nor a file system of its own.
    cargo build --quiet --release --locked -p coordinator -p ctl -p agent -p tests --bins
    bin="${CARGO_TARGET_DIR:-target}/release"
    work=$(mktemp -d /var/tmp/drover-bench.XXXXXX)
    trap '"$bin/ctl" dev down --dir "$work/cluster" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
    "$bin/ctl" dev up --dir "$work/cluster" --agents 0 --coordinators 1
    "$bin/access" "$work/cluster/contexts.toml"
    exit
    ;;
files | links | memory) ;;
*) usage ;;
esac
suite=$1
shift
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/bench.sh: needs root for loop mounts" >&2
    exit 1
fi
rounds=${ROUNDS:-3}
read -ra peers <<<"${PEERS:-drover rsync rsyncz rsyncd tar rclone cp}"

. deploy/require.sh
. tests/bench/peers.sh
require rsync=rsync zstd=zstd rclone=rclone sshd=openssh-server ssh=openssh-client mkfs.ext4=e2fsprogs cc=gcc,libc6-dev nsenter=util-linux sysctl=procps

cargo build --release --locked -p coordinator -p agent -p ctl -p tests --bins
bin="${CARGO_TARGET_DIR:-target}/release"
case "$bin" in /*) ;; *) bin="$PWD/$bin" ;; esac
work=${BENCH_DIR:-$(mktemp -d /var/tmp/drover-bench.XXXXXX)}
mkdir -p "$work/results" "$work/ssh" "$work/mnt"
mount_point="$work/mnt"
image="$work/image"

cleanup() {
    "$bin/ctl" dev down --dir "$work/cluster" >/dev/null 2>&1 || true
    local pid
    for pid in "$work/ssh/pid" "$work/ssh/rsyncd.pid"; do
        [ ! -f "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true
    done
    [ -z "${router:-}" ] || exec {router}>&-
    umount -q "$mount_point" 2>/dev/null || true
    [ -n "${BENCH_DIR:-}" ] || rm -rf "$work"
}
trap cleanup EXIT

# ---- the field ----

fresh() {
    umount -q "$mount_point" 2>/dev/null || true
    mkfs.ext4 -q -F -N 2500000 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$image"
    mount -o loop "$image" "$mount_point"
}

# Starts sshd at an address, by a command if it is to run elsewhere.
start_sshd() {
    local address=$1
    shift
    rm -f "$work"/ssh/*
    ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/host"
    ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/user"
    cp "$work/ssh/user.pub" "$work/ssh/authorized"
    mkdir -p /run/sshd
    port=$((20000 + RANDOM % 20000))
    cat >"$work/ssh/config" <<EOF
Port $port
ListenAddress $address
HostKey $work/ssh/host
AuthorizedKeysFile $work/ssh/authorized
PidFile $work/ssh/pid
StrictModes no
UsePAM no
PermitRootLogin yes
EOF
    "$@" "$(command -v sshd)" -f "$work/ssh/config"
    remote_shell="ssh -p $port -i $work/ssh/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
}

start_cluster() {
    "$bin/ctl" dev up --dir "$work/cluster" --agents 2 --coordinators 1
    export CTL_CONTEXT_FILE="$work/cluster/contexts.toml"
}

agent_pid() {
    "$bin/ctl" --output json dev status --dir "$work/cluster" | tr -d ' \n' |
        sed "s/.*\"name\":\"$1\",[^}]*\"pid\":\([0-9]*\).*/\1/"
}

# Busy time of the whole machine in hundredths of a second: every process of both ends, the kernel's included.
cpu() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat; }

# Peak memory in KiB of the processes of a name, sampled while a file exists.
sample_peak() {
    local name=$1 flag=$2 peak=0 rss
    while [ -e "$flag" ]; do
        for pid in $(pgrep -x "$name" || true); do
            rss=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
            [ "${rss:-0}" -le "$peak" ] || peak=$rss
        done
        sleep 0.2
    done
    echo "$peak" >"$flag.peak"
}

# One timed run: peer, corpus, whether its time counts.
timed() {
    local peer=$1 corpus=$2 counts=$3 source="$work/corpus/$2" destination="$mount_point/site"
    fresh
    case $corpus in
    noop) rsync -aHAX --numeric-ids "$source/" "$destination/" ;;
    # The older version stands there.
    delta) cp -a "$work/corpus/large" "$destination" ;;
    esac
    local peak=0 agent
    for agent in agent-1 agent-2; do echo 5 >"/proc/$(agent_pid $agent)/clear_refs"; done
    touch "$work/running"
    case $peer in rsync*) sample_peak rsync "$work/running" & ;; esac
    sync
    local cpu0 cpu1 t0 t1
    cpu0=$(cpu)
    t0=$(date +%s%N)
    "run_$peer" "$source" "$destination"
    sync -f "$destination"
    t1=$(date +%s%N)
    cpu1=$(cpu)
    rm -f "$work/running"
    wait
    case $peer in
    drover)
        for agent in agent-1 agent-2; do
            local hwm
            hwm=$(awk '/^VmHWM/ { print $2 }' "/proc/$(agent_pid $agent)/status")
            [ "$hwm" -le "$peak" ] || peak=$hwm
        done
        ;;
    rsync*) peak=$(cat "$work/running.peak") ;;
    esac
    if ! judge "$peer" "$source" "$destination"; then
        echo "void: $peer on $corpus: the judge says: $(head -n 3 "$work/judge")"
        return
    fi
    [ "$counts" = yes ] || return 0
    echo "$corpus $peer $(((t1 - t0) / 1000000)) $(((cpu1 - cpu0) * 10)) $peak $(bytes_on_wire "$peer")" >>"$work/results/files"
    echo "  $corpus $peer: $(((t1 - t0) / 1000000)) ms wall, $(((cpu1 - cpu0) * 10)) ms CPU, peak $((peak / 1024)) MiB"
}

make_corpus() {
    [ -d "$work/corpus/$1" ] && return
    mkdir -p "$work/corpus"
    case $1 in
    mails) "$bin/corpus" mails "$work/corpus/mails" 100000 ;;
    sites) "$bin/corpus" sites "$work/corpus/sites" 20 ;;
    large) "$bin/corpus" large "$work/corpus/large" 2048 ;;
    delta)
        make_corpus large
        "$bin/corpus" changed "$work/corpus/delta" 2048
        ;;
    noop | watched) "$bin/corpus" tiny "$work/corpus/$1" 200000 ;;
    *) usage ;;
    esac
}

bench_files() {
    local corpora=("$@") corpus round order peer
    [ ${#corpora[@]} -gt 0 ] || corpora=(mails sites large delta noop watched)
    for corpus in "${corpora[@]}"; do
        make_corpus "$corpus"
        # Read warm: what is timed is the move, not this machine's disk.
        tar cf - -C "$work/corpus/$corpus" . | cat >/dev/null
        if [ "$corpus" = watched ]; then
            echo "== $corpus"
            bench_watched
            continue
        fi
        echo "== $corpus: warm-up"
        for peer in "${peers[@]}"; do timed "$peer" "$corpus" no; done
        for round in $(seq 1 "$rounds"); do
            order=("${peers[@]}")
            [ $((round % 2)) -eq 1 ] || mapfile -t order < <(printf '%s\n' "${peers[@]}" | tac)
            for peer in "${order[@]}"; do timed "$peer" "$corpus" yes; done
        done
    done
    umount -q "$mount_point" || true
    echo
    echo "Medians of $rounds rounds. wall, CPU: ratios to rsync; wire: to rsyncz; /cp, /rsyncd: wall to theirs."
    awk -f tests/bench/table.awk "$work/results/files"
}

# The passes of a migration, a line each: number, scan, entries changed, milliseconds.
passes_of() {
    "$bin/ctl" --output json status "$1" | tr -d ' \n' | grep -o '{"number":[^}]*}' |
        sed 's/.*"number":\([0-9]*\).*"scan":"\([a-z]*\)".*"files_changed":\([0-9]*\).*"duration_ms":\([0-9]*\).*/\1 \2 \3 \4/'
}

# 100 changes among many files: a pass of one migration over its watched source, as its report tells, against rsync.
bench_watched() {
    local source="$work/corpus/watched" round id last found changed cpu0 cpu1 t0 t1
    find "$source" -type f >"$work/names"
    fresh
    rsync -aHAX --numeric-ids "$source/" "$mount_point/peer/"
    "$bin/ctl" --output json migrate "agent-1:$source" "agent-2:$mount_point/site" --catch-up --cutover manual --yes \
        --detach >"$work/drover.json"
    id=$(grep -m 1 -o '"id": *"[^"]*"' "$work/drover.json" | cut -d '"' -f 4)
    until "$bin/ctl" --output json status "$id" | grep -q '"status": *"awaiting_cutover"'; do sleep 0.5; done
    for round in $(seq 0 "$rounds"); do
        last=$(passes_of "$id" | awk '{ last = $1 } END { print last }')
        # Others each round, and the same ones in each run of the bench.
        awk -v round="$round" 'NR % 2000 == round + 1' "$work/names" >"$work/changed"
        changed=$(wc -l <"$work/changed")
        while read -r file; do echo "round $round" >>"$file"; done <"$work/changed"
        # They may fall into two passes.
        until found=$(passes_of "$id" | awk -v last="$last" -v changed="$changed" '
            $1 > last && $3 > 0 { sum += $3; ms += $4; scan = $2 }
            END { if (sum < changed) exit 1; print ms, scan }'); do sleep 0.2; done
        sync
        cpu0=$(cpu)
        t0=$(date +%s%N)
        run_rsync "$source" "$mount_point/peer"
        sync -f "$mount_point/peer"
        t1=$(date +%s%N)
        cpu1=$(cpu)
        [ "$round" -gt 0 ] || continue
        echo "  $changed changes: ${found% *} ms (${found#* } scan), rsync $(((t1 - t0) / 1000000)) ms"
        echo "watched drover ${found%% *} 0 0 0" >>"$work/results/files"
        echo "watched rsync $(((t1 - t0) / 1000000)) $(((cpu1 - cpu0) * 10)) 0 $(bytes_on_wire rsync)" >>"$work/results/files"
    done
    "$bin/ctl" --output json cutover "$id" >"$work/drover.json"
    "$bin/ctl" --output json verify "$id" | grep -q '"verified": *true' || echo "void: ctl verify sees differences"
    tests/judge.sh "$source" "$mount_point/site" >"$work/judge" || echo "void: the judge says: $(head -n 3 "$work/judge")"
    grep -o '"downtime[a-z_]*": *[0-9]*' "$work/drover.json"
}

bench_memory() {
    local count=${1:-1000000} kind agent
    echo "idle agents: $(for agent in agent-1 agent-2; do awk '/^VmRSS/ { printf "%d KiB  ", $2 }' "/proc/$(agent_pid $agent)/status"; done)"
    for kind in tiny links directory; do
        for number in 10000 "$count"; do
            rm -rf "$work/corpus/memory"
            "$bin/corpus" "$kind" "$work/corpus/memory" "$number"
            fresh
            for agent in agent-1 agent-2; do echo 5 >"/proc/$(agent_pid $agent)/clear_refs"; done
            run_drover "$work/corpus/memory" "$mount_point/site"
            for agent in agent-1 agent-2; do
                echo "$kind, $number names: $agent peak $(awk '/^VmHWM/ { print $2 }' "/proc/$(agent_pid $agent)/status") KiB"
            done
        done
    done
}

# Lays a link of this weather, and starts a cluster and an sshd with the destination at its other end.
lay_link() {
    local end
    link="drover$$"
    rm -rf "$work/far" "$work/cluster" "$work/ssh" "$work/router"
    mkdir -p "$work/far" "$work/ssh"
    ln -s "$bin/ctl" "$bin/drover-agent" "$bin/drover-coordinator" "$work/far/"
    : >"$work/router"
    exec {router}> >("$bin/router" "$link" "$@" programs="$work/far" >"$work/router")
    timeout 10 sh -c "until grep -q ready '$work/router'; do sleep 0.1; done"
    # As Linux comes. A machine that is set to another allows namespaces only that one, and says so here.
    for end in a b; do
        nsenter --net="/run/netns/$link-$end" sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true
    done
    echo "  ssh goes by $(nsenter --net="/run/netns/$link-a" sysctl -n net.ipv4.tcp_congestion_control)"
    export DROVER_BIN_DIR="$work/far" CTL_CONTEXT_FILE="$work/cluster/contexts.toml"
    "$work/far/ctl" dev up --dir "$work/cluster" --agents 2 --coordinators 1 >/dev/null
    start_sshd 10.77.2.1 nsenter --net="/run/netns/$link-b"
}

# Removes the link and says what happened on the way to the destination.
lift_link() {
    "$work/far/ctl" dev down --dir "$work/cluster" >/dev/null
    kill "$(cat "$work/ssh/pid")"
    rm -f "$work/ssh/pid"
    exec {router}>&-
    router=
    until [ ! -e "/run/netns/$link-b" ]; do sleep 0.1; done
    grep -o '"a_to_b":{[^}]*}' "$work/router" | sed 's/^/  /'
}

# Moves a corpus by a peer, rsync for LIMIT seconds at the most; prints the rate of the content that arrived. Drover's
# time is that of the whole migration, its verification included.
cross() {
    local peer=$1 corpus=$2 destination="$work/moved" t0 t1 bytes
    rm -rf "$destination"
    t0=$(date +%s%N)
    case $peer in
    drover)
        "$work/far/ctl" --output json migrate "agent-1:$corpus" "agent-2:$destination" --yes >"$work/drover.json"
        grep -q '"verified": *true' "$work/drover.json"
        ;;
    rsync)
        timeout "${LIMIT:-60}" nsenter --net="/run/netns/$link-a" rsync -a --inplace -e "$remote_shell" \
            "$corpus/" "10.77.2.1:$destination/" || [ $? -eq 124 ]
        ;;
    esac
    t1=$(date +%s%N)
    # A file that is written in place has its size at the end; what is allocated has come.
    bytes=$(du -s --block-size=1 "$destination" | cut -f1)
    echo "  $(basename "$corpus") $peer: $(((t1 - t0) / 1000000)) ms, $((bytes * 1000 / ((t1 - t0) / 1000))) kB/s"
}

bench_links() {
    local weather corpora corpus round
    mkdir -p "$work/corpus/file" "$work/corpus/mails"
    head -c 400M /dev/urandom >"$work/corpus/file/image.raw"
    "$bin/corpus" mails "$work/corpus/mails" 5000
    for weather in 'rate=300Mbit loss=0.5% queue=2MiB' 'rate=300Mbit queue=2MiB' 'rate=20Mbit queue=128KiB'; do
        echo "== 50 ms each way, $weather"
        # shellcheck disable=SC2086  # Words of the router.
        lay_link delay=50ms $weather
        corpora=(file mails)
        case $weather in *20Mbit*) corpora=(mails) ;; esac
        for round in $(seq 1 "$rounds"); do
            for corpus in "${corpora[@]}"; do
                cross drover "$work/corpus/$corpus"
                cross rsync "$work/corpus/$corpus"
            done
        done
        lift_link
    done
}

[ $suite = links ] || [ -f "$image" ] || dd if=/dev/zero of="$image" bs=8M count=768 conv=fsync status=none
[ $suite = links ] || start_cluster
case $suite in
files)
    start_sshd 127.0.0.1
    start_peers
    : >"$work/results/files"
    bench_files "$@"
    ;;
links) bench_links ;;
memory) bench_memory "$@" ;;
esac
