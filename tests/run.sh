#!/usr/bin/env bash
# Runs every test: installs what the tests need from Debian's packages when it is missing, then plain `cargo test`.
#
#   tests/run.sh          everything that runs in CI
#   tests/run.sh --all    also the long tiers (hours)
#
# Ends with a summary of what passed, failed and was skipped, with the reasons. CARGO_TARGET_DIR is honoured.
set -euo pipefail
cd "$(dirname "$0")/.."

all=
case "${1:-}" in
'') ;;
--all) all=1 ;;
*)
    echo "usage: tests/run.sh [--all]" >&2
    exit 2
    ;;
esac

. deploy/require.sh
require rsync=rsync sqlite3=sqlite3 cc=gcc,libc6-dev ip=iproute2 mkfs.ext4=e2fsprogs faketime=faketime nft=nftables \
    setpriv=util-linux losetup=mount mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs git=git setfacl=acl

output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0
# The tests of one binary run in parallel; `--no-fail-fast` shows every failure in one run.
DROVER_TEST_ALL=$all cargo test --workspace --all-targets --locked --no-fail-fast 2>&1 | tee "$output" || status=$?

echo
echo "== summary"
grep -h '^skipped: ' "$output" | sort | uniq -c | sed 's/^ *\([0-9]*\) skipped: /skipped (\1): /' || true
skipped=$(grep -c '^skipped: ' "$output" || true)
awk -v skipped="$skipped" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped + ignored }' "$output"
exit "$status"
