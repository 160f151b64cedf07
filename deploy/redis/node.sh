#!/bin/sh
# Starts a node of a Redis Cluster: node.sh NAME.
# One that has been in the cluster waits first: by then its replica leads if it can, with all that was
# confirmed. Back at once it would lead on with what its disk has, which may lack the last second.
set -eu
if [ -s /data/nodes.conf ]; then sleep 10; fi
exec valkey-server /etc/tocsin/cluster.conf --cluster-announce-hostname "$1"
