#!/bin/sh
# MariaDB with the ratings that ratings v2-mysql reads.
set -eu
export DEBIAN_FRONTEND=noninteractive
dpkg-query -W mariadb-server >/dev/null 2>&1 || apt-get install -yq --no-install-recommends mariadb-server
mariadb </hostmesh/vagrant/mysql/ratings.sql
