#!/usr/bin/env bash
# The main job in one command: builds Drover, starts a local cluster, moves a sample site (files and a SQLite
# database) from agent-1 to agent-2, shows the report and stops.
#
#   deploy/quickstart.sh            runs and stops the cluster
#   deploy/quickstart.sh --keep     leaves the cluster running and says how to look at it
#
# Needs a Debian or Ubuntu with a Rust toolchain. CARGO_TARGET_DIR is honoured.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=
case "${1:-}" in
'') ;;
--keep) keep=1 ;;
*)
    echo "usage: deploy/quickstart.sh [--keep]" >&2
    exit 2
    ;;
esac

. deploy/require.sh
require cc=gcc,libc6-dev sqlite3=sqlite3

echo "== building (the first time takes some minutes)"
cargo build --release --locked -p coordinator -p agent -p ctl
bin="${CARGO_TARGET_DIR:-target}/release"
case "$bin" in /*) ;; *) bin="$PWD/$bin" ;; esac
ctl="$bin/ctl"

work=$(mktemp -d "${TMPDIR:-/tmp}/drover-quickstart.XXXXXX")
site="$work/agent-1/var/www/shop"
moved="$work/agent-2/var/www/shop"
stop() {
    if [ -z "$keep" ]; then
        "$ctl" dev down --dir "$work/cluster"
    fi
}

echo "== making a sample site in $site"
mkdir -p "$site/wp-content/uploads" "$site/wp-includes" "$work/agent-2/var/www"
for number in $(seq 1 300); do
    printf '<?php // part %d\nfunction part_%d() { return %d; }\n' "$number" "$number" "$number" \
        >"$site/wp-includes/part-$number.php"
done
for number in $(seq 1 20); do
    head -c $((number * 20000)) /dev/urandom >"$site/wp-content/uploads/photo-$number.jpg"
done
ln -s wp-content/uploads "$site/uploads"
ln "$site/wp-includes/part-1.php" "$site/wp-includes/first.php"
sqlite3 "$site/shop.sqlite" "create table orders (id integer primary key, total real);
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
    insert into orders select i, i * 1.25 from n;"
expected=$(sqlite3 "$site/shop.sqlite" 'select count(*), sum(total) from orders')

echo "== starting a local cluster"
trap stop EXIT
"$ctl" dev up --dir "$work/cluster" --agents 2 --coordinators 1
export CTL_CONTEXT_FILE="$work/cluster/contexts.toml"

echo "== ctl migrate agent-1:$site agent-2:$moved"
"$ctl" --output json migrate "agent-1:$site" "agent-2:$moved" --yes --detach >"$work/migration.json"
id=$(sed -n 's/^ *"id": *"\([^"]*\)".*/\1/p' "$work/migration.json" | head -n 1)
[ -n "$id" ] || id=$(sed 's/.*"id":"\([^"]*\)".*/\1/' "$work/migration.json")
"$ctl" watch "$id"
"$ctl" report "$id" --format html >"$work/report.html"
"$ctl" report "$id" --format markdown

found=$(sqlite3 "file:$moved/shop.sqlite?mode=ro" 'pragma integrity_check; select count(*), sum(total) from orders')
if [ "$found" != "ok"$'\n'"$expected" ]; then
    echo "quickstart: the moved database does not hold what the source's holds: $found" >&2
    exit 1
fi
echo "== SQLite says of the moved database: $(echo "$found" | tr '\n' ' ')"
echo "== report: $work/report.html"
if [ -n "$keep" ]; then
    cat <<EOF
The cluster is still running. To look at it:
    export CTL_CONTEXT_FILE=$CTL_CONTEXT_FILE
    $ctl list
    $ctl status $id
    $ctl host list
To stop it:
    $ctl dev down --dir $work/cluster
EOF
fi
