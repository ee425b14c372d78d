#!/bin/sh
# A Prometheus of its own for the lab, as the calling user, with the configuration that hostmesh ships: only the intervals
# are shorter, so that one sees what one did. Usage: prometheus.sh PORT. All it writes is in $STATE_DIRECTORY.
set -eu
shipped=$(cd "$(dirname "$(readlink -f "$0")")/../../monitoring/prometheus" && pwd)
program=$(readlink -f "$(command -v prometheus)")
sed -e 's/_interval: 15s/_interval: 2s/' -e "s|- hostmesh.rules.yml|- $shipped/hostmesh.rules.yml|" \
  "$shipped/prometheus.yml" >"$STATE_DIRECTORY/prometheus.yml"
exec "$program" --config.file="$STATE_DIRECTORY/prometheus.yml" --storage.tsdb.path="$STATE_DIRECTORY/prometheus" \
  --storage.tsdb.retention.time=1d --web.listen-address="127.0.0.1:$1" --log.level=warn \
  --web.local-assets="${program%/bin/*}/share/prometheus/web"
