#!/bin/sh
# A MariaDB of its own with the ratings of Bookinfo, as the calling user. Usage: mysqldb.sh PORT
# All it writes is in $STATE_DIRECTORY; a MariaDB that this machine has is not touched. Needs Debian's mariadb-server-core.
set -eu
data=$STATE_DIRECTORY/mysql
sql=$(dirname "$(readlink -f "$0")")/ratings.sql
small="--innodb-log-file-size=4M --innodb-buffer-pool-size=16M --innodb-flush-log-at-trx-commit=0"
if [ ! -d "$data/mysql" ]; then
  # shellcheck disable=SC2086
  mariadb-install-db --no-defaults --datadir="$data" --auth-root-authentication-method=normal --skip-test-db \
    --skip-name-resolve $small >"$STATE_DIRECTORY/install.log" 2>&1 || { cat "$STATE_DIRECTORY/install.log" >&2; exit 1; }
fi
# Without name lookups MariaDB keeps no list of hosts to refuse either: health checks connect and say nothing.
# shellcheck disable=SC2086
exec mariadbd --no-defaults --datadir="$data" --socket="$STATE_DIRECTORY/mysqld.sock" --pid-file="$STATE_DIRECTORY/mysqld.pid" \
  --bind-address=0.0.0.0 --port="$1" --skip-name-resolve --init-file="$sql" --log-warnings=1 $small
