# For the developers of one app, in one of its clusters. A token may have several such policies:
#
#     sed 's/APP/slug/; s/CLUSTER/development/' kickstart/consul/developer.hcl |
#         consul acl policy create -name slug-development -rules -

# The one document that they write, by its whole name. A prefix to write under, as "clusters/APP/", would hold deploy_config,
# too, by which things are run as root; to deny that for each cluster would leave it open in the next cluster that is made.
# Here what is not named is refused. Not for the app `platypus`: whoever may write its config runs programs as root.
key "clusters/APP/CLUSTER/config" {
  policy = "write"
}

# What else is said of the app, in all of its clusters.
key_prefix "clusters/APP/" {
  policy = "read"
}

# What was changed of it, when and by whom: pp-store log. A change is recorded before it is made, so that who may write a config
# may write its history, too, and could change what it says of them.
key_prefix "history/APP/" {
  policy = "read"
}
key_prefix "history/APP/CLUSTER/" {
  policy = "write"
}

# Which of its hosts waits for which, and what failed: pp-store leases. To let it be tried again is for operators: who may
# write a lease may take the app down.
key_prefix "locks/APP/" {
  policy = "read"
}

# Which host has which version, and why one has not: pp-store set asks before it activates one. A report is of all apps of a
# host, so that developers see how each other's are, with the last lines that a version logged which would not start.
key_prefix "reality/" {
  policy = "read"
}

# Which hosts are to run it, and which of their agents are alive: pp-store status, why and set --wait.
key_prefix "nodes/" {
  policy = "read"
}
service "platypus-agent" {
  policy = "read"
}

# How its instances are.
service "APP" {
  policy = "read"
}

# Whether their hosts are alive. Without it Consul shows no instances either.
node_prefix "" {
  policy = "read"
}
agent_prefix "" {
  policy = "read"
}
