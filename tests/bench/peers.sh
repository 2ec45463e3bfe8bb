# Sourced by tests/bench.sh: what an operator would pick instead, each as its users run it.
#
#   drover    ctl migrate, verification included
#   rsync     rsync -aHAX over ssh: the base of all ratios
#   rsyncz    the same with -z: the base of what is on the wire
#   rsyncd    rsync's own daemon, which does not encrypt
#   tar       tar | zstd | ssh; it never deletes, and sends everything again each time
#   rclone    rclone over sftp; it keeps neither owners, modes, links nor attributes, and is judged by content only
#   cp        cp -a, on one machine
#
# Each run_PEER SOURCE DESTINATION leaves what it counted in $work.

run_drover() {
    "$bin/ctl" --output json migrate "agent-1:$1" "agent-2:$2" --yes >"$work/drover.json"
    grep -q '"verified": *true' "$work/drover.json"
}

run_rsync() { rsync -aHAX --numeric-ids --stats -e "$remote_shell" "$1/" "127.0.0.1:$2/" >"$work/rsync.stats"; }

run_rsyncz() { rsync -aHAXz --numeric-ids --stats -e "$remote_shell" "$1/" "127.0.0.1:$2/" >"$work/rsyncz.stats"; }

run_rsyncd() {
    rsync -aHAX --numeric-ids --stats "$1/" "rsync://127.0.0.1:$daemon_port/all$2/" >"$work/rsyncd.stats"
}

run_tar() {
    local keep="--xattrs --xattrs-include=* --acls --numeric-owner"
    # shellcheck disable=SC2086  # Words of tar.
    tar $keep --format=posix --sparse -C "$1" -cf - . | zstd -q -T0 | tee >(wc -c >"$work/tar.bytes") |
        $remote_shell 127.0.0.1 "mkdir -p '$2' && zstd -dq | tar $keep -xpf - -C '$2'"
}

run_rclone() {
    rclone copy --transfers 8 --checkers 8 --log-level ERROR "$1" "bench:$2"
}

run_cp() { mkdir -p "$2" && cp -a "$1/." "$2/"; }

# Starts what the peers need beside sshd.
start_peers() {
    daemon_port=$((port + 1))
    cat >"$work/ssh/rsyncd.conf" <<EOF
pid file = $work/ssh/rsyncd.pid
port = $daemon_port
address = 127.0.0.1
use chroot = no
uid = root
gid = root
[all]
path = /
read only = no
EOF
    rsync --daemon --config="$work/ssh/rsyncd.conf"
    cat >"$work/ssh/rclone.conf" <<EOF
[bench]
type = sftp
host = 127.0.0.1
port = $port
user = root
key_file = $work/ssh/user
shell_type = unix
EOF
    export RCLONE_CONFIG="$work/ssh/rclone.conf"
}

bytes_on_wire() {
    case $1 in
    drover) grep -m 1 -o '"bytes_on_wire": *[0-9]*' "$work/drover.json" | grep -o '[0-9]*$' ;;
    rsync*) awk '/^Total bytes (sent|received)/ { gsub(",", "", $4); sum += $4 } END { print sum }' "$work/$1.stats" ;;
    tar) cat "$work/tar.bytes" ;;
    cp | rclone) echo 0 ;;
    esac
}

# Says what differs, and fails if something does.
judge() {
    case $1 in
    rclone) [ -z "$(rsync -rnic --no-links "$2/" "$3/" | grep '^[<>]' | tee "$work/judge" | head -n 1)" ] ;;
    *) tests/judge.sh "$2" "$3" >"$work/judge" ;;
    esac
}
