#!/bin/sh
# Runs the program of the same name in `real` at its end of a long link: agent-2 at one end, everything else at the
# other. A daemon's settings get addresses first that the other end reaches.
set -eu
here=$(dirname "$0") program=$(basename "$0")
end=a own=10.77.1.1 settings=
for word; do
    case $word in
    */agent-2/settings.toml) end=b own=10.77.2.1 settings=$word ;;
    */settings.toml) settings=$word ;;
    esac
done
case $program in
drover-agent) sed -i "s/127\.0\.0\.1/$own/" "$settings" ;;
drover-coordinator)
    port=$(sed -n 's/^listen_api = "127\.0\.0\.1:\(.*\)"$/\1/p' "$settings")
    if [ -n "$port" ]; then
        sed -i "s/^listen_api = .*/listen_api = \"0.0.0.0:$port\"/" "$settings"
        echo "advertise_api = \"$own:$port\"" >>"$settings"
    fi
    ;;
esac
exec nsenter --net="/run/netns/$(cat "$here/real/link")-$end" "$here/real/$program" "$@"
