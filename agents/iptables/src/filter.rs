//! The flags that say where rules go, and how the chain ends.

use std::path::PathBuf;

use crate::end::Kept;
use crate::kernel::Variant;

/// What is made of the ports in intent. The default is a developer's: a file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only write the rule set, for both families, to this file [default: test_data/iptables/rules]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["apply", "cmd"])]
    pub rules: Option<PathBuf>,

    /// Change this host's packet filter: the chain PLATYPUS in the table filter, IPv4 and IPv6. Takes root
    #[arg(long, conflicts_with = "cmd")]
    pub apply: bool,

    /// With --apply: which iptables, on a host that has both [default: what iptables-save and iptables-restore are]
    #[arg(long, value_enum, requires = "apply")]
    pub variant: Option<Variant>,

    /// With --apply: the file that is locked meanwhile [default: /run/platypus-iptables.lock]
    #[arg(long, value_name = "FILE", requires = "apply")]
    pub lock: Option<PathBuf>,

    /// End the chain by dropping what no rule accepted, instead of falling through to the host's own rules. Loopback,
    /// established connections, ICMP and --keep ports stay open. The chain comes first in INPUT: what the host's own
    /// rules would have accepted after it is dropped too
    #[arg(long, conflicts_with = "cmd")]
    pub default_drop: bool,

    /// With --default-drop: ports that stay open whatever intent says, from anywhere, as in 22, 53/udp, 8300-8302/tcp.
    /// Given at all, it replaces the default, SSH and Consul: name 22 again if you need it. A host that gets its IPv6
    /// address by DHCP needs 546/udp
    #[arg(
        long,
        value_name = "PORTS",
        value_delimiter = ',',
        requires = "default_drop",
        default_value = "22,8300-8302/tcp,8301-8302/udp,8500"
    )]
    pub keep: Vec<Kept>,

    /// Have another program see to the filter, as port_authority does: write what is to be open into --config-dir, a file
    /// for each app, and run CMD rebuild when something there has changed, and again until it has exited with 0 within
    /// 60 s. A file <app>.yaml holds {"<app>": {"cluster": "dev", "ports": [{"port": 53, "protocol": "udp", "source":
    /// "10.0.0.0/8"}]}}, and in its first line that it is ours: only such files are changed, and removed with their app
    #[arg(long, value_name = "CMD", requires = "config_dir")]
    pub cmd: Option<PathBuf>,

    /// With --cmd: where the files go
    #[arg(long, value_name = "DIR", requires = "cmd")]
    pub config_dir: Option<PathBuf>,

    /// Take over what another node's agent had made or, for `pt-direct`, the store's. A program has one flag of this name
    /// for all that it does, so it is the program's own.
    #[arg(skip)]
    pub adopt: bool,
}

impl Filter {
    pub(crate) fn rules(&self) -> PathBuf {
        self.rules.clone().unwrap_or_else(|| "test_data/iptables/rules".into())
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.lock.clone().unwrap_or_else(|| "/run/platypus-iptables.lock".into())
    }
}
