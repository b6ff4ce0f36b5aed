# For dashboards, backups and people who look: pp-store ls, get, check, export and leases. What an app's user_config holds they
# see, too: a secret does not belong there.

# Intent.
key_prefix "nodes/" {
  policy = "read"
}
key_prefix "clusters/" {
  policy = "read"
}

# Who is down on purpose, and what failed.
key_prefix "locks/" {
  policy = "read"
}

# What agents tell of their hosts.
key_prefix "reality/" {
  policy = "read"
}

# How instances are.
service_prefix "" {
  policy = "read"
}

# Whether hosts are alive. Without it Consul shows no instances either.
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
