# For dashboards, backups and people who look: pp-store ls, get, check, export, log and leases. What an app's user_config
# holds, or ever held, they see, too: a secret does not belong there.

# Intent.
key_prefix "nodes/" {
  policy = "read"
}
key_prefix "clusters/" {
  policy = "read"
}

# What was changed of it, when and by whom.
key_prefix "history/" {
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
