# Sourced by the scripts that need more than a Rust toolchain: installs what is missing from Debian's packages.
#
#   require COMMAND=PACKAGE[,PACKAGE]…     COMMAND may stand in /usr/sbin, which is not on everybody's PATH
#
# Returns 0 when nothing is missing any more; otherwise ends the script with what apt-get said.

require() {
    local need missing=() sudo=
    for need in "$@"; do
        if ! PATH="$PATH:/usr/sbin:/sbin" command -v "${need%%=*}" >/dev/null; then
            IFS=, read -ra packages <<<"${need#*=}"
            missing+=("${packages[@]}")
        fi
    done
    if [ ${#missing[@]} -gt 0 ]; then
        echo "== installing: ${missing[*]}"
        [ "$(id -u)" -eq 0 ] || sudo=sudo
        $sudo apt-get update -q
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
    fi
    if ! command -v cargo >/dev/null; then
        echo "$0: cargo is missing; install Rust (https://rustup.rs) and run this again" >&2
        exit 1
    fi
}
