#!/bin/sh
# Makes a cluster of its arguments, with a replica for each primary, unless they are one already.
set -eu
user=$1
shift
REDISCLI_AUTH=$(cat /run/secrets/redis-admin.password)
export REDISCLI_AUTH
cli() { valkey-cli --user "$user" --tls --cacert /run/secrets/ca.pem "$@"; }
if cli -h "$1" cluster info | grep -q 'cluster_state:ok'; then exit 0; fi
addresses=
for name in "$@"; do
    # Nodes are introduced by number, and tell one another their names.
    number=$(getent ahostsv4 "$name" | awk 'NR == 1 { print $1 }')
    addresses="$addresses $number:6379"
done
# shellcheck disable=SC2086
cli --cluster create $addresses --cluster-replicas 1 --cluster-yes
