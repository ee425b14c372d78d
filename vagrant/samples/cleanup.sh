#!/bin/sh
# Delete every object of the mesh that has the kind and name of one in these samples, and say which. Changes no setting.
# Usage: cleanup.sh [OPTION…]   options are given to hostmesh, for example --context NAME
set -eu
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# KIND NAMESPACE NAME of each object, read from the files…
find "$here" -name '*.yaml' -exec cat {} + | awk '
  function tell() { if (kind && name) print kind, namespace, name; kind = name = ""; namespace = "default" }
  BEGIN { namespace = "default" }
  /^(---|apiVersion:)/ { tell() }
  /^[a-zA-Z]/ { inside = $1 }
  /^kind:/ { kind = $2 }
  inside == "metadata:" && /^  name:/ { name = $2 }
  inside == "metadata:" && /^  namespace:/ { namespace = $2 }
  END { tell() }
' | sort -u >"$work/samples"
# … and of what is in the mesh
hostmesh get all --all-namespaces "$@" >"$work/table" 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
awk 'NR > 1 { sub(/\..*/, "", $2); print $2, $3, $1 }' "$work/table" | sort -u >"$work/mesh"

comm -12 "$work/samples" "$work/mesh" >"$work/both"
[ -s "$work/both" ] || { echo "Nothing of the samples is in the mesh."; exit 0; }
while read -r kind namespace name; do
  hostmesh delete --namespace "$namespace" "$@" "$kind" "$name" </dev/null
done <"$work/both"
