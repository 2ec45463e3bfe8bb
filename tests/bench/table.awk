# Lines "corpus peer wall-ms CPU-ms peak-KiB wire-bytes", one for each timed run: medians and ratios, a line each.

function median(list, count,    parts, i, j, swap) {
    split(list, parts, " ")
    for (i = 1; i < count; i++)
        for (j = i + 1; j <= count; j++)
            if (parts[j] + 0 < parts[i] + 0) { swap = parts[i]; parts[i] = parts[j]; parts[j] = swap }
    return parts[int((count + 1) / 2)]
}

# Prints a value as a ratio to that of another peer in the same run.
function ratio(value, base) {
    if (base > 0 && value > 0) printf " %7.2f", value / base
    else printf " %7s", "-"
}

{
    if (!($1 in seen_corpus)) { corpora[++corpora_count] = $1; seen_corpus[$1] }
    if (!($2 in seen_peer)) { peers[++peers_count] = $2; seen_peer[$2] }
    runs[$1, $2]++
    for (field = 3; field <= 6; field++) lists[$1, $2, field] = lists[$1, $2, field] " " $field
}

END {
    printf "%-7s %-7s %9s %9s %9s %12s %7s %7s %7s %7s %7s\n", "corpus", "peer", "wall ms", "CPU ms", "peak MiB", "wire bytes", "wall", "CPU", "wire", "/cp", "/rsyncd"
    for (c = 1; c <= corpora_count; c++) {
        corpus = corpora[c]
        for (p = 1; p <= peers_count; p++)
            for (field = 3; field <= 6; field++)
                value[peers[p], field] = runs[corpus, peers[p]] ? median(lists[corpus, peers[p], field], runs[corpus, peers[p]]) : 0
        for (p = 1; p <= peers_count; p++) {
            peer = peers[p]
            if (!runs[corpus, peer]) continue
            printf "%-7s %-7s %9d %9d %9d %12.0f", corpus, peer, value[peer, 3], value[peer, 4], value[peer, 5] / 1024, value[peer, 6]
            ratio(value[peer, 3], value["rsync", 3])
            ratio(value[peer, 4], value["rsync", 4])
            ratio(value[peer, 6], value["rsyncz", 6])
            ratio(value[peer, 3], value["cp", 3])
            ratio(value[peer, 3], value["rsyncd", 3])
            printf "\n"
        }
    }
}
