# Consul ACL policy of the people who operate the mesh with `hostmesh`. Leave out what a team shall not do: a team's own
# rules are hostmesh/config/NAMESPACE/.
key_prefix "hostmesh/config/" { policy = "write" }
key "hostmesh/mesh" { policy = "write" }

# Who may write tickets may look into every Envoy of the mesh (proxy-config, proxy-stats, describe); private keys are
# never shown. Nobody but an agent may write a status: it says by which certificate the agent is known.
key_prefix "hostmesh/status/" { policy = "read" }
key_prefix "hostmesh/tickets/" { policy = "write" }

node_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }

# For `hostmesh register`: the services without an agent, and the nodes that it makes for them.
# service "NAME" { policy = "write" }
# node_prefix "hostmesh-external-" { policy = "write" }
