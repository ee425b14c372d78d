# Consul ACL policy of hostmesh-agent on one host. Replace NODE by its node name (in Consul and in hostmesh the same) and
# NAME by the services of its services.d, a line for each.
key_prefix "hostmesh/config/" { policy = "read" }
key "hostmesh/mesh" { policy = "read" }

# Its own status and the tickets that operators leave for it, nobody else's: by them it is known to operators.
key "hostmesh/status/NODE" { policy = "write" }
key_prefix "hostmesh/tickets/NODE/" { policy = "write" }
session "NODE" { policy = "write" }

agent "NODE" { policy = "read" }
node_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }
service "NAME" { policy = "write" }
