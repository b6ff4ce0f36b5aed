//! What `pp-store --help` teaches: what one would do with it, the shapes of `--json`, and exit statuses.

pub(super) const EXAMPLES: &str = r#"Examples:
  Let two hosts run version 0.2 of slug, and have 0.1 at hand:
    pp-store put clusters/slug/dev/deploy_config '{"basedir": "/srv/slug", "ports": [8080]}'
    pp-store put clusters/slug/dev/config '{"versions": {"0.1": "prep", "0.2": "active"}, "min_nodes": 1}'
    pp-store put nodes/web1/slug '{"cluster": "dev"}'
    pp-store put nodes/web2/slug '{"cluster": "dev"}'

  Look around:
    pp-store ls
    pp-store ls nodes/web1
    pp-store get clusters/slug/dev/config

  Change what you have seen, or fail with status 3 when somebody else has changed it meanwhile:
    pp-store get clusters/slug/dev/config --json > seen
    pp-store put clusters/slug/dev/config @new --cas "$(jq -r .revision seen)"
    pp-store put nodes/web3/slug '{"cluster": "dev"}' --cas absent

  Have 0.3 fetched, then make it the active version; 0.2 stays at hand. And back:
    pp-store set slug dev 0.3=prep
    pp-store set slug dev 0.3=active -m 'faster, see the notes of 0.3'
    pp-store rollback slug dev

  Start slug anew on all hosts of a cluster, as carefully as for a new version:
    pp-store restart slug dev --wait -m 'it has a new certificate'

  Work on slug on web1 by hand:
    pp-store hold web1 slug -m 'looking at its memory'
    pp-store unhold web1 slug

  Take web1 away for a while, when its instances are not needed; and back:
    pp-store drain web1 -m 'it gets new disks'
    pp-store undrain web1

  See what has changed, by whom and why, and what exactly:
    pp-store put clusters/slug/dev/config @new -m 'more memory, see the graphs of Monday'
    pp-store log slug dev
    pp-store log slug dev -n 1 --diff

  Take slug off its hosts and, once they have stopped it, forget the cluster:
    pp-store rm nodes/web1/slug nodes/web2/slug
    pp-store rm clusters/slug/dev/config clusters/slug/dev/deploy_config

  Keep intent in git, and see what a change of it would do:
    pp-store check intent
    pp-store import intent --prune --dry-run
    pp-store import intent --prune

  See which hosts would do what because of it; then do just that, or nothing if that is another thing by then:
    pp-store plan intent --prune
    pp-store import intent --prune --if-plan 14f76dceb7715bf600dd9f55842b5d1e

  Find what is wrong, and make a copy of it all:
    pp-store check
    pp-store export backup

  How far is everything? Why is slug not as intent has it?
    pp-store status
    pp-store why slug

  Something hangs: who waits for whom? What has failed, and what did it say?
    pp-store leases
  Others wait for web2, and its agent is gone for good; if it only hangs, restart it instead:
    pp-store release slug dev web2
  0.2 failed because of something else, which is put right by now (0.2 is still the active version):
    pp-store retry slug dev 0.2

With --json:
  ls    [{"key", "revision"}], and {"key", "error"} for a document that cannot be read
  get   {"key", "revision", "value"}, with "text" or "error" instead of "value" when it is no JSON
  put   {"key", "written"}
  rm    {"removed": [key], "absent": [key]}
  set   {"key", "written", "versions": {version: "active" or "prep"}}
  rollback
        {"key", "written", "number"}, where "number" is of the entry whose document is back
  restart
        {"key", "restart"}
  hold, unhold
        {"key", "written"}
  drain, undrain
        {"node", "changed": [key], "already": [key], "left": [{"key", "reason"}]}
  log   [{"number", "key", "who", "at", "message", "was", "is", "document", "state"}], the newest first, where "was" and "is"
        are digests of the document before and after (null: there is none), "document" is what it becomes (text where it is
        no JSON; null of a removal, and of what is too large to be kept), and "state" is "current", "applied", "not applied",
        "changed outside since" or "unknown"; before them {"key", "document", "state": "changed outside"} of what no entry
        has, and {"key", "state": "not recorded"} of what has no entry; with --diff each has its "diff"; and {"key", "error"}
        of what cannot be read
  import, export
        {"changes": [{"key", "change", "done"}], "left": [{"key", "reason"}], "identical": n}, where "change" is "create",
        "change" or "remove", and with --dry-run each has its "diff"
  plan  {"token", "changes": [{"key", "change", "how": [text]}], "left": [{"key", "reason"}], "identical": n, "findings", "clusters"},
        where "token" is null where nothing would change, or what would be invalid, and "findings" are as of check
          "clusters": [{"app", "cluster", "nodes", "min_nodes", "at_once", "hosts", "warnings": [text]}], where "nodes" are those
                      that are to run it, and "at_once" so many may be replaced at a time
          "hosts":    [{"node", "does": [{"do"}], "unless": [{"state", "reason"}]}], where "unless" is what keeps it from that, with
                      states as of status, and "drained"; and "do" is "prepare" or "prepare_unless_there" (with "versions"),
                      "prepared", "start", "run" or "restart" (with "version"; "restart" with "because": [field], too),
                      "replace" (with "from" and "to"), "stop" (with "version", which may be null, and "because": "leaves",
                      "drained" or "inactive"), "open" or "close" (with "ports": [text]), "go_over" (with "to", another cluster) or
                      "note" (new checks and time-outs)
  check [{"severity", "key", "reason", "advice", "holds": [key]}], where "severity" is "invalid" or "suspicious"; with
        "line" and "column" where JSON is broken, and "file" in a directory
  status
        [{"app", "cluster", "wanted", "nodes", "prepared", "live", "healthy", "lag_seconds", "state", "node", "reason", "on"}],
        where the numbers are of nodes, "state" is the worst of "failing", "dead", "invalid", "unknown", "waiting", "held",
        "unseen" and "converging", or "converged", and "node" and "reason" say where and why; and {"key", "error"} for
        what cannot be read or known. What is null is not known, or there is none.
          "on":     [{"node", "prepared", "live", "healthy", "drained", "state", "reason", "since", "log": [line]}]
  why   [{"app", "cluster", "wanted", "why", "on", "leases"}], with "on" as of status, and "leases" as the store has them
  leases
        [{"key", "app", "cluster", "min_nodes", "instances", "passing", "spare", "down", "failed"}], where the numbers are of
        instances, "spare" of those that min_nodes lets go down now; and {"key", "error"} for what cannot be read or known. What is
        null is not known, or there is none.
          "down":   [{"node", "to", "version", "since", "why", "host", "alive", "passing", "trial", "held"}], where "to" is a
                    digest, or null of a node that leaves, with "trial" others wait until it has tried that, and with "held"
                    its intent says so, and its agent does nothing
          "failed": [{"digest", "version", "node", "at", "reason", "log": [line], "retry"}], where "retry" is when an operator
                    let it be tried again
  release
        {"key", "released": [node], "down": [node]}, where "down" are the others
  retry {"key", "retried": [digest], "already": [digest]}

Exit status:
  0  done
  1  it failed, or there is no such document, cluster or entry; check: something is invalid; plan: something would be
  2  wrong usage; check: something is suspicious, nothing is invalid; plan: something would change
  3  somebody else was faster: put, set, rollback, restart, hold, drain, release and retry wrote nothing, import and export stopped or left out what they
     had changed

Consul is reached as the consul command reaches it: CONSUL_HTTP_ADDR (without --store), CONSUL_HTTP_TOKEN,
CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT,
CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME."#;
