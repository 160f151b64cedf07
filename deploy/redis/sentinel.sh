#!/bin/sh
# Starts a Sentinel on its own copy of the configuration, which it rewrites with what it learns.
# sentinel.sh NAME: the host name that the other Sentinels and all clients know it by.
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
    } >"$own.new"
    mv "$own.new" "$own"
fi
exec "${TOCSIN_REDIS_PROGRAM:-valkey-server}" "$own" --sentinel
