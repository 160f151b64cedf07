#!/bin/sh
# Starts a Sentinel on its own copy of the configuration, which it rewrites with what it learns.
# sentinel.sh NAME [MILLISECONDS]: the host name that the other Sentinels and all clients know it by, and after
# how long without an answer it deems a server down, where that is not what the configuration says.
set -eu
umask 077
data=${TOCSIN_DATA:-/data}
own=$data/sentinel.conf
if [ ! -s "$own" ]; then
    {
        cat /etc/tocsin/sentinel.conf /run/secrets/sentinel-users.conf
        echo "dir $data"
        echo "sentinel announce-ip $1"
        echo "sentinel announce-port 26379"
        [ -z "${2:-}" ] || echo "sentinel down-after-milliseconds tocsin $2"
    } >"$own.new"
    mv "$own.new" "$own"
fi
exec "${TOCSIN_REDIS_PROGRAM:-valkey-server}" "$own" --sentinel
