#!/bin/sh
# Starts one PostgreSQL of a pair: start.sh ME PEER FIRST, where FIRST is what an empty folder becomes:
# primary or standby.
#
# It never promotes anything: that is yours to decide (docs/deploy.md). But a former primary that finds
# its peer leading becomes the peer's standby, by itself.
set -eu
umask 077
me=$1 peer=$2 first=$3
data=/data/main
export PGCONNECT_TIMEOUT=3
# Whether its control file has the timeline that it writes.
CHECKPOINTED="SELECT timeline_id = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int FROM pg_control_checkpoint()"
leader="host=$peer port=5432 user=replica sslmode=verify-full sslrootcert=/run/secrets/ca.pem passfile=/run/secrets/postgres.pgpass"

say() { echo "start.sh: $*" >&2; }

peer_leads() { [ "$(psql "$leader dbname=postgres" -Atc 'SELECT NOT pg_is_in_recovery()' 2>/dev/null)" = t ]; }

follow() {
    # What the standby needs to know of its leader; the password comes from the file.
    touch "$data/standby.signal"
    echo "primary_conninfo = '$leader application_name=$me'" >"$data/postgresql.auto.conf"
    echo "recovery_target_timeline = 'latest'" >>"$data/postgresql.auto.conf"
}

copy() {
    rm -rf "$data.new"
    pg_basebackup --dbname="$leader" --pgdata="$data.new" --wal-method=stream --checkpoint=fast
    mv "$data.new" "$data"
    follow
}

create() {
    rm -rf "$data.new"
    initdb --pgdata="$data.new" --username=postgres --auth=trust --data-checksums --encoding=UTF8 --no-locale
    {
        echo "CREATE ROLE tocsin LOGIN PASSWORD '$(cat /run/secrets/postgres.password)';"
        echo "CREATE ROLE replica LOGIN REPLICATION PASSWORD '$(cat /run/secrets/postgres-replica.password)';"
        echo "CREATE DATABASE tocsin OWNER tocsin;"
        # Whether the standby has it on its disk.
        echo "GRANT pg_read_all_stats TO tocsin;"
        # What pg_rewind needs: the timeline of the one that leads, on its disk, and its files.
        echo "GRANT pg_checkpoint TO replica;"
        echo "GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO replica;"
        echo "GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO replica;"
        echo "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO replica;"
        echo "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO replica;"
    } | postgres --single -D "$data.new" postgres >/dev/null
    mv "$data.new" "$data"
}

rejoin() {
    # A former primary ends its own history in order, drops what the peer never had, and follows.
    say "$peer leads now: this one becomes its standby"
    rm -f "$data/postmaster.pid"
    postgres --single -D "$data" -c archive_mode=off postgres </dev/null >/dev/null 2>&1 || true
    # Before its first checkpoint a promoted server still shows its old timeline, and pg_rewind would find nothing to do.
    until [ "$(psql "$leader dbname=postgres" -Atc "$CHECKPOINTED" 2>/dev/null)" = t ]; do
        psql "$leader dbname=postgres" -qc CHECKPOINT 2>/dev/null || sleep 1
    done
    if ! pg_rewind --target-pgdata="$data" --source-server="$leader dbname=postgres"; then
        say "it cannot be rewound: all is copied anew, the old folder is kept as main.former"
        rm -rf "$data.former"
        mv "$data" "$data.former"
        copy
    fi
    follow
}

if [ -s "$data/PG_VERSION" ]; then
    if [ ! -e "$data/standby.signal" ] && peer_leads; then rejoin; fi
elif [ "$first" = primary ] && ! peer_leads; then
    create
else
    until peer_leads; do
        say "waits for $peer, to copy it"
        sleep 1
    done
    copy
fi
# Left by a container that was killed: nothing else runs on this folder.
rm -f "$data/postmaster.pid"
exec postgres -D "$data" -c config_file=/etc/tocsin/postgresql.conf -c hba_file=/etc/tocsin/pg_hba.conf \
    -c cluster_name="$me"
