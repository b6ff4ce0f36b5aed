# What pp-preparer, pp-setlive and pp-iptables need. No rule lets them write intent: a host that somebody has taken over says
# nothing to the others but how it is.

# What this host is to run. One rule for each host, as "nodes/web1/", would do for tokens that differ from host to host.
key_prefix "nodes/" {
  policy = "read"
}

# In what version and configuration.
key_prefix "clusters/" {
  policy = "read"
}

# Leaves from the cluster, what failed, and the platform's own upgrade, which goes by the same leases.
key_prefix "locks/" {
  policy = "write"
}

# What agents tell of their hosts. Nobody takes it for intent.
key_prefix "reality/" {
  policy = "write"
}

# Instances, their checks, reports and maintenance; and, as the service platypus-agent, that agents are alive. Consul's agent
# keeps a service in the catalog with the token that it was registered with.
service_prefix "" {
  policy = "write"
}

# By which name Consul knows this host.
agent_prefix "" {
  policy = "read"
}

# Which hosts are alive. Without it Consul shows no instances either.
node_prefix "" {
  policy = "read"
}
