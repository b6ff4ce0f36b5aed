# For who says what runs where. It is as good as root on every host: a deploy_config names the user that an app runs as, and
# the platform is an app itself.

# Which host runs what.
key_prefix "nodes/" {
  policy = "write"
}

# In what version, and with which rights. deploy_config is among it.
key_prefix "clusters/" {
  policy = "write"
}

# What was changed, when and by whom: recorded before each change.
key_prefix "history/" {
  policy = "write"
}

# pp-store release and retry.
key_prefix "locks/" {
  policy = "write"
}

# What agents tell. It is theirs to write.
key_prefix "reality/" {
  policy = "read"
}

# How instances are. For `consul maint -service` it takes "write": then Consul also takes instances that no agent started.
service_prefix "" {
  policy = "read"
}

# Whether hosts are alive. For `consul maint` of a whole host it takes "write".
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
