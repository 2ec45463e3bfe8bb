#!/usr/bin/env bash
# Line coverage of the unit, property and tidy tiers, by cargo-tarpaulin with its ptrace engine.
# The daemons that scenarios start are separate processes and are not counted.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-tarpaulin >/dev/null; then
    cargo install --locked cargo-tarpaulin
fi
exec cargo tarpaulin --engine ptrace --workspace --exclude tests --lib --skip-clean --locked --out Stdout "$@"
