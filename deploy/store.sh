#!/bin/sh
# Run a node on a store that no other container of this volume uses: `roost-store chat.py ...`.
#
# Containers of one service are alike, and compose gives the same volume to all of them. Stores are not alike. So
# each container takes the first directory that is free, and makes one where none is: `down` and `up`, another image,
# fewer containers and more again find the stores that were left. The lock ends with the process that holds it.
set -eu

number=1
while :; do
  store="$ROOST_DATA/store-$number"
  mkdir -p "$store.lock"
  exec 9< "$store.lock"
  if flock --nonblock 9; then
    break
  fi
  number=$((number + 1))
done
# The engine's DNS knows a container by its name, which stays while its address may change.
export ROOST_ADVERTISE="${ROOST_ADVERTISE:-$(hostname):$ROOST_PORT}"
exec roost node --data "$store" "$@"
