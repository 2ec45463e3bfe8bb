#!/usr/bin/env bash
# The judge: is DESTINATION the same tree as SOURCE? Independent of Drover: rsync, find and awk only.
#
#   tests/judge.sh SOURCE DESTINATION
#
# Prints every difference and exits 1 when there is one, 0 when there is none, 2 when it could not look.
# Stages that are kept for the way back are passed over: directories `.drover-MIGRATION-RANDOM`, one in the root and
# one in each mount, subvolume or project below it.
set -euo pipefail
export LC_ALL=C

if [ $# -ne 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "usage: tests/judge.sh SOURCE DESTINATION (two directories)" >&2
    exit 2
fi
source=$(cd "$1" && pwd -P)
destination=$(cd "$2" && pwd -P)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
differences=0
stage='.drover-*-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'

# Content by checksum, types, owners, modes, times, links, ACLs, extended attributes, and names on one side only.
# XFS shows each ACL a second time, as an attribute in its own form: that is not one of the tree's. (A filter of ours takes
# the place of rsync's own, which leaves out the kernel's `system.*`; ACLs are compared by -A.)
# rsync opens files to read their checksums; O_NOATIME keeps it from touching what it judges.
if ! rsync -n -i -aHAXS --numeric-ids --checksum --delete --modify-window=-1 --open-noatime \
    --filter='-x system.*' --filter='-x trusted.SGI_ACL_*' --exclude="$stage/" "$source/" "$destination/" >"$work/rsync" 2>"$work/errors"; then
    cat "$work/errors" >&2
    echo "judge: rsync could not compare" >&2
    exit 2
fi
if [ -s "$work/rsync" ]; then
    sed 's/^/rsync: /' "$work/rsync"
    differences=1
fi

# One line for each entry, sorted; a name may hold a newline, so records end in NUL.
listing() {
    (cd "$1" && find . -type d -name "$stage" -prune -o "${@:2}") | sort -z
}
compare() {
    local what=$1
    shift
    listing "$source" "$@" >"$work/source"
    listing "$destination" "$@" >"$work/destination"
    if ! cmp -s "$work/source" "$work/destination"; then
        { diff <(tr '\n\0' '?\n' <"$work/source") <(tr '\n\0' '?\n' <"$work/destination") || true; } |
            grep '^[<>]' | sed "s/^/$what: /"
        differences=1
    fi
}

# rsync compares which names are linked to each other, not how often; a link to outside of the tree shows here.
compare 'link count' ! -type d -printf '%P %n\0'
# rsync passes over the times of links on some systems, and its output does not show nanoseconds.
compare 'time' -printf '%P %T@\0'

# A sparse file must stay sparse: its blocks within a tenth, and 64 KiB for the file system's own rounding.
listing "$source" -type f -size +0 -printf '%b %s %P\0' >"$work/source"
listing "$destination" -type f -size +0 -printf '%b %s %P\0' >"$work/destination"
if ! awk -v RS='\0' '
    # The name comes last and whole: it may hold spaces, tabs and newlines.
    { name = $0; sub(/^[0-9]+ [0-9]+ /, "", name) }
    NR == FNR { blocks[name] = $1; size[name] = $2; next }
    (name in blocks) && blocks[name] * 512 + 4096 < size[name] {
        most = blocks[name] * 1.1 + 128
        if ($1 + 0 > most) { printf "blocks: %s has %d blocks, the source has %d\n", name, $1, blocks[name]; bad = 1 }
    }
    END { exit bad }' "$work/source" "$work/destination"; then
    differences=1
fi

exit "$differences"
