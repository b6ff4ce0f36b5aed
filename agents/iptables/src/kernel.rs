//! This host's packet filter, by its own `iptables-save` and `iptables-restore`.
//!
//! Ensures: each family changes at once or not at all; two agents do not change it at the same time, not even one and what
//! is left of another that was killed. Assumes that others who change it do not touch our chain; where they do, the
//! next look finds it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use clap::ValueEnum;
use converge::files::Lock;
use tracing::{debug, warn};

use crate::command;
use crate::rule::Family;
use crate::table::{CHAIN, Table, Tables};

/// The legacy variant waits so many seconds for whoever else changes the filter.
const WAIT: &str = "20";
const PATIENCE: Duration = Duration::from_secs(30);

/// Which iptables, where a host has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    Nft,
    Legacy,
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) variant: Option<Variant>,
    pub(crate) lock: PathBuf,
    /// Whether it was looked for a chain in the other variant.
    looked_elsewhere: Cell<bool>,
}

impl Kernel {
    /// # Errors
    /// When this process has no right to change a packet filter, which the commands themselves say in other words.
    pub(crate) fn open(variant: Option<Variant>, lock: PathBuf) -> Result<Self> {
        ensure!(may_change_networks(), "--apply changes this host's packet filter: that takes root, or CAP_NET_ADMIN");
        Ok(Self { variant, lock, looked_elsewhere: Cell::default() })
    }

    /// Both families at the same time: most passes do nothing else. Where IPv6 is in trouble the tables are without it, and
    /// the trouble is told beside them: a host whose IPv6 filter cannot be read has its IPv4 one all the same.
    pub(crate) async fn look(&self) -> Result<(Tables, Option<Error>)> {
        if !self.looked_elsewhere.replace(true) {
            self.warn_of_another().await;
        }
        let v6 = async {
            if !Path::new("/proc/net/if_inet6").exists() {
                debug!("this kernel does without IPv6, and so do we");
                return Ok(None);
            }
            self.save(Family::V6).await.map(Some)
        };
        let (v4, v6) = tokio::join!(self.save(Family::V4), v6);
        let (v6, trouble) = v6.map_or_else(|error| (None, Some(error)), |v6| (v6, None));
        Ok((Tables { v4: v4?, v6 }, trouble))
    }

    /// A host may have gone over from one variant to the other. The kernel heeds both: what the chain left in the other
    /// drops stays dropped.
    async fn warn_of_another(&self) {
        let (ours, other) = match self.variant {
            Some(ours) => (ours, ours.other()),
            None => match command::ask(&program(None, Family::V4, "save"), &["-V"], PATIENCE).await {
                Ok(version) if version.contains("nf_tables") => (Variant::Nft, Variant::Legacy),
                Ok(_) => (Variant::Legacy, Variant::Nft),
                Err(_) => return,
            },
        };
        // To ask legacy iptables for a table that it has not would make it.
        let has_table =
            || std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| names.contains("filter"));
        if other == Variant::Legacy && !has_table() {
            return;
        }
        if save(Some(other), Family::V4).await.is_ok_and(|table| table.chain.is_some()) {
            let (ours, other) = (ours.suffix(), other.suffix());
            warn!(
                app = %CHAIN,
                "iptables{other} has a chain of this name, too, which counts as well as this one in iptables{ours}; to \
                 remove it: for t in iptables{other} ip6tables{other}; do $t -D INPUT -j {CHAIN}; $t -F {CHAIN}; \
                 $t -X {CHAIN}; done"
            );
        }
    }

    async fn save(&self, family: Family) -> Result<Table> {
        save(self.variant, family).await
    }

    /// The families in which something differs, one after the other; trouble in one does not keep the other.
    pub(crate) async fn write(&self, before: &Tables, after: &Tables, lock: &Lock) -> Result<()> {
        let mut results = Vec::new();
        for ((family, before), (_, after)) in before.each().zip(after.each()) {
            if before != after {
                results.push(self.restore(family, &after.restore(before), lock).await);
            }
        }
        let errors = results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect::<Vec<_>>();
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }

    async fn restore(&self, family: Family, text: &str, lock: &Lock) -> Result<()> {
        let program = program(self.variant, family, "restore");
        // It prints nothing. As its standard output it holds the lock until it has ended, also when we are killed.
        let output = Stdio::from(lock.share()?);
        command::run("restore", &program, &["--noflush", "-w", WAIT], text, output, PATIENCE).await
    }
}

async fn save(variant: Option<Variant>, family: Family) -> Result<Table> {
    let program = program(variant, family, "save");
    let save = command::ask(&program, &["-t", "filter"], PATIENCE).await?;
    Table::read(&save).with_context(|| format!("reading what {} prints", program.display()))
}

/// `iptables-save`, `ip6tables-nft-restore`, …
fn program(variant: Option<Variant>, family: Family, action: &str) -> PathBuf {
    let ip = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{ip}{}-{action}", variant.map_or("", Variant::suffix)).into()
}

impl Variant {
    fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }
}

/// Whether this process has CAP_NET_ADMIN, as far as can be seen: where it cannot, the commands will say.
fn may_change_networks() -> bool {
    const CAP_NET_ADMIN: u64 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_none_or(|bits| bits & (1 << CAP_NET_ADMIN) != 0)
}
