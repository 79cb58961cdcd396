//! The noun firewall: who may reach the machine's own ports. It is one table of nftables,
//! `inet keelson`, replaced as a whole by one transaction of nft(8); no other table is looked
//! at or touched, and what comes from links of the cluster's network is not judged.
//!
//! ```text
//! packet for the machine ─> table inet keelson ─ drop
//!                                │ accept
//!                                v
//!                           the orchestrator's own chains, which may still drop it
//! ```

use crate::{
    noun::Noun,
    resource::{Phase, Resource},
    store::digest,
};
use anyhow::{Context as _, bail};
use keelson_config::{Cidr, Firewall, FirewallRule, Machine};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Write as _},
    fs, io,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

const NFT: &str = "/usr/sbin/nft";

/// The table, as nft(8) names it.
const TABLE: &str = "inet keelson";

/// What was loaded last: nft prints a table in its own words, so both texts are remembered.
const LOADED: &str = "/run/keelson/firewall.json";

/// How often the table is looked at: a program on the machine may have changed it.
const EVERY: Duration = Duration::from_secs(60);

/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was loaded, by the digests of the texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loaded {
    /// What nft was given.
    script: String,
    /// What it printed of it then.
    printed: String,
}

/// What was observed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Have {
    /// The digest of the table as nft prints it; `None` where there is none.
    printed: Option<String>,
    loaded: Option<Loaded>,
}

/// The one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Load this script, which says so much.
    Load {
        /// What nft is given.
        script: String,
        /// In words.
        rules: String,
    },
    /// Delete the table.
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Load { rules, .. } => write!(f, "load the firewall: {rules}"),
            Step::Remove => f.write_str("remove the firewall"),
        }
    }
}

fn plan(have: &Have, want: Option<&Firewall>) -> Vec<Step> {
    let Some(want) = want else {
        return have.printed.iter().map(|_| Step::Remove).collect();
    };
    let script = script(want);
    if is_loaded(have, &script) {
        return Vec::new();
    }
    let rules = summary(want);
    vec![Step::Load { script, rules }]
}

/// Whether the table is what this script made of it.
fn is_loaded(have: &Have, script: &str) -> bool {
    let (Some(printed), Some(loaded)) = (&have.printed, &have.loaded) else {
        return false;
    };
    *printed == loaded.printed && loaded.script == digest(script.as_bytes())
}

fn summary(want: &Firewall) -> String {
    let word = if want.block { "block" } else { "accept" };
    format!("{} rules, then {word}", want.rules.len())
}

/// What nft(8) is given: the table as it is to be, in place of the one that is there.
fn script(want: &Firewall) -> String {
    let mut text = format!(
        "table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n  chain input {{\n    \
         type filter hook input priority filter - 5; policy accept;\n    iifname \"lo\" accept\n"
    );
    let mut line = |words: String| {
        // Writing to a text does not fail.
        writeln!(text, "    {words}").unwrap_or_default();
    };
    for prefix in keelson_config::LINKS_OF_PODS {
        line(format!("iifname \"{prefix}*\" accept"));
    }
    line("ct state established,related accept".into());
    line("meta l4proto { icmp, ipv6-icmp } accept".into());
    line("udp sport 67 udp dport 68 accept".into());
    line("udp sport 547 udp dport 546 accept".into());
    for source in sources(&want.nodes) {
        line(format!("{source} accept"));
    }
    for rule in &want.rules {
        for words in lines(rule) {
            line(words);
        }
    }
    if want.block {
        line("drop".into());
    }
    text.push_str("  }\n}\n");
    text
}

/// A rule, in a line for each family that it is about.
fn lines(rule: &FirewallRule) -> Vec<String> {
    let protocol = if rule.udp { "udp" } else { "tcp" };
    let ports: Vec<String> = apart(&rule.ports)
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    let verdict = if rule.block { "drop" } else { "accept" };
    let about = format!("{protocol} dport {{ {} }} {verdict}", ports.join(", "));
    if rule.from.is_empty() {
        return vec![about];
    }
    let from = sources(&rule.from).into_iter();
    from.map(|source| format!("{source} {about}")).collect()
}

/// The same ports in ranges that do not overlap, as a set must have them.
fn apart(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut apart: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match apart.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => apart.push((first, last)),
        }
    }
    apart
}

/// What packets from these networks look like, for each family.
fn sources(networks: &[Cidr]) -> Vec<String> {
    [("ip", true), ("ip6", false)]
        .into_iter()
        .filter_map(|(family, v4)| {
            let of_family: Vec<String> = networks
                .iter()
                .filter(|network| network.addr.is_ipv4() == v4)
                .map(Cidr::to_string)
                .collect();
            // One network may be within another: each is a line of its own to nobody's harm,
            // but a set of both would be refused.
            (!of_family.is_empty()).then_some((family, of_family))
        })
        .flat_map(|(family, networks)| {
            networks
                .into_iter()
                .map(move |network| format!("{family} saddr {network}"))
        })
        .collect()
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Firewalls {
    loaded: PathBuf,
    /// When the table was looked at, if one is wanted.
    looked: Option<Instant>,
}

impl Firewalls {
    /// The noun.
    pub(crate) fn new() -> Firewalls {
        Firewalls {
            loaded: LOADED.into(),
            looked: None,
        }
    }

    fn remembered(&self) -> anyhow::Result<Option<Loaded>> {
        match fs::read(&self.loaded) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.loaded.display())),
        }
    }
}

impl Noun for Firewalls {
    const KIND: &'static str = "firewall";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        let loaded = self.remembered()?;
        self.looked = want.network.firewall.as_ref().map(|_| Instant::now());
        // Who never wanted one has none, and asks nobody.
        if self.looked.is_none() && loaded.is_none() {
            return Ok(Have::default());
        }
        Ok(Have {
            printed: printed().await?,
            loaded,
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, want.network.firewall.as_ref())
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Load { script, .. } => {
                nft(&["-f", "-"], script).await?;
                let printed = printed().await?.context("the table is not there")?;
                let loaded = Loaded {
                    script: digest(script.as_bytes()),
                    printed,
                };
                fs::write(&self.loaded, serde_json::to_vec(&loaded)?)
                    .with_context(|| format!("writing {}", self.loaded.display()))
            }
            Step::Remove => {
                nft(&["delete", "table", "inet", "keelson"], "").await?;
                fs::remove_file(&self.loaded)
                    .with_context(|| format!("deleting {}", self.loaded.display()))
            }
        }
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        let Some(want) = &want.network.firewall else {
            return Vec::new();
        };
        let (phase, message) = match is_loaded(have, &script(want)) {
            true => (Phase::Ready, ""),
            false => (Phase::Failed, "it is not loaded"),
        };
        let rules: Vec<String> = want.rules.iter().map(|rule| rule.name.clone()).collect();
        let nodes: Vec<String> = want.nodes.iter().map(Cidr::to_string).collect();
        vec![
            Resource::new(Self::KIND, "input", phase)
                .message(message)
                .field("default", if want.block { "block" } else { "accept" })
                .field("nodes", nodes)
                .field("rules", rules),
        ]
    }

    fn deadline(&self) -> Option<Instant> {
        self.looked.map(|looked| looked + EVERY)
    }
}

/// The digest of the table as nft prints it without counters; `None` where there is none.
async fn printed() -> anyhow::Result<Option<String>> {
    // Listing a table that is not there is an error like others: all names are listed first.
    let tables = nft(&["list", "tables"], "").await?;
    if !tables.lines().any(|line| line == format!("table {TABLE}")) {
        return Ok(None);
    }
    let text = nft(&["-s", "list", "table", "inet", "keelson"], "").await?;
    Ok(Some(digest(text.as_bytes())))
}

/// Runs nft; what it prints.
async fn nft(args: &[&str], input: &str) -> anyhow::Result<String> {
    let run = async {
        let mut child = Command::new(NFT)
            .args(args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(PATIENCE, run)
        .await
        .with_context(|| format!("nft has not ended within {} s", PATIENCE.as_secs()))?
        .context("running nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft {}: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(block: bool) -> Firewall {
        Firewall {
            block,
            nodes: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            rules: vec![
                FirewallRule {
                    name: "api".into(),
                    ports: vec![(50000, 50000), (30000, 32767), (30080, 30080)],
                    udp: false,
                    from: vec!["10.9.0.0/16".parse().unwrap(), "fd09::/48".parse().unwrap()],
                    block: false,
                },
                FirewallRule {
                    name: "dns".into(),
                    ports: vec![(53, 53)],
                    udp: true,
                    from: Vec::new(),
                    block: true,
                },
            ],
        }
    }

    /// Shows: network.firewall
    #[test]
    fn the_table_says_what_the_config_says() {
        let text = script(&want(true));
        let own: Vec<&str> = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !line.contains("546"))
            .skip(1)
            .collect();
        let wanted = [
            "ip saddr 10.0.0.0/24 accept",
            "ip6 saddr fd00::/64 accept",
            "ip saddr 10.9.0.0/16 tcp dport { 30000-32767, 50000 } accept",
            "ip6 saddr fd09::/48 tcp dport { 30000-32767, 50000 } accept",
            "udp dport { 53 } drop",
            "drop",
            "}",
            "}",
        ];
        assert_eq!(own, wanted);
        assert!(text.contains("iifname \"cni*\" accept"), "{text}");
        let open = script(&want(false));
        assert!(!open.lines().any(|line| line.trim() == "drop"), "{open}");
    }

    #[test]
    fn plans() {
        let (want, other) = (want(true), want(false));
        let loaded = Loaded {
            script: digest(script(&want).as_bytes()),
            printed: "as loaded".into(),
        };
        let have = |printed: Option<&str>, loaded: Option<&Loaded>| Have {
            printed: printed.map(Into::into),
            loaded: loaded.cloned(),
        };
        let cases = [
            ("nothing wanted, nothing there", have(None, None), None, ""),
            ("first", have(None, None), Some(&want), "load"),
            (
                "as it is",
                have(Some("as loaded"), Some(&loaded)),
                Some(&want),
                "",
            ),
            (
                "another config",
                have(Some("as loaded"), Some(&loaded)),
                Some(&other),
                "load",
            ),
            (
                "somebody changed it",
                have(Some("changed"), Some(&loaded)),
                Some(&want),
                "load",
            ),
            (
                "somebody deleted it",
                have(None, Some(&loaded)),
                Some(&want),
                "load",
            ),
            (
                "of an unknown hand",
                have(Some("as loaded"), None),
                Some(&want),
                "load",
            ),
            (
                "not wanted any more",
                have(Some("as loaded"), Some(&loaded)),
                None,
                "remove",
            ),
        ];
        for (name, have, want, step) in cases {
            let steps = plan(&have, want);
            let words: Vec<String> = steps.iter().map(ToString::to_string).collect();
            match step {
                "" => assert!(words.is_empty(), "{name}: {words:?}"),
                step => assert!(
                    words.len() == 1 && words[0].starts_with(step),
                    "{name}: {words:?}"
                ),
            }
        }
    }
}
