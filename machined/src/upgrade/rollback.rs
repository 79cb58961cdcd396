//! Goes back to the release in the other slot: looks whether it is whole and whether the
//! cluster can live with it, and has the boot loader prefer it. Blocking.

use super::{
    Back, Base,
    loader::{self, Entry, Loader as _},
    now, publish,
    record::{Carried, Record, Tries},
};
use crate::orchestrator::restore;
use anyhow::{Context as _, bail, ensure};
use keelson_disk::verity;

/// Makes the other release the one that boots; its version. On an error nothing changed.
pub(super) fn prepare(base: &Base, back: Back, by: &str) -> anyhow::Result<String> {
    let running = &base.running.root_hash;
    let entries = base.disk.with_loader(|loader| loader.entries())?;
    let other = entries
        .iter()
        .find(|entry| !entry.opens(running))
        .context("there is no other release on this machine")?;
    let root = other.root.with_context(|| {
        format!(
            "the entry of {} in the boot loader is damaged",
            other.version
        )
    })?;
    let hash = verity::hex(&root.root_hash);
    let record = base.memory.read();
    if let Some(bad) = record.failed(&other.version, &hash) {
        bail!("{} has failed here: {}", other.version, bad.reason);
    }
    ensure!(
        other.tries == Tries::Uncounted,
        "{} is not known to be good",
        other.version
    );
    if let Some(why) = too_old(&record, base.release.orchestrator.as_ref(), other, &hash)
        && !back.restore_snapshot
    {
        bail!(why);
    }
    let slot = base
        .disk
        .find(&root.root_hash)?
        .with_context(|| format!("the slot of {} was overwritten", other.version))?;
    base.disk
        .verify(slot, &root)
        .with_context(|| format!("{} is damaged", other.version))?;
    if back.restore_snapshot {
        let snapshot = publish::snapshot(&base.running.version)
            .context("no snapshot from before this version is kept")?;
        restore::request(&snapshot).context("having the snapshot restored")?;
    }
    let outcome = prefer(base, by);
    if outcome.is_err() && back.restore_snapshot {
        restore::withdraw().context("taking back that a snapshot is restored")?;
    }
    outcome?;
    Ok(other.version.clone())
}

/// Why the datastore may not be put back on this server alone, if it may not: `servers`
/// is how many there are, or why nobody knows.
pub(super) fn not_restorable(servers: Result<usize, String>, force: bool) -> Option<String> {
    match servers {
        Ok(0 | 1) => None,
        Ok(many) => Some(format!(
            "the cluster has {many} servers: what is put back on one of them alone is another \
             cluster than the others have. Upgrade to a newer release instead; or shut the other \
             servers down and delete their nodes, go back here, and let them join anew"
        )),
        Err(_) if force => None,
        Err(why) => Some(format!(
            "whether the cluster has other servers is not known: {why}; --force goes back \
             without asking"
        )),
    }
}

/// Has the loader boot the other release.
fn prefer(base: &Base, by: &str) -> anyhow::Result<()> {
    base.memory.change(|record| {
        record.roll_back(&base.running.version, format!("asked for by {by}"), now());
    })?;
    base.disk.with_loader(|loader| {
        let entries = loader.entries()?;
        let own = loader::find(&entries, &base.running.root_hash)
            .context("the running release has no entry in the boot loader")?;
        loader.give_up(own)
    })
}

/// Why Kubernetes cannot go back so far, if it cannot: what a newer minor version wrote, an
/// older one does not read (Kubernetes: "Version Skew Policy").
fn too_old(
    record: &Record,
    running: Option<&Carried>,
    other: &Entry,
    hash: &str,
) -> Option<String> {
    let running = running?;
    let how = "restore the snapshot from before the upgrade with --restore-snapshot; \
               what the cluster was told since is lost";
    let before = record
        .previous
        .as_ref()
        .filter(|previous| previous.root_hash == hash)
        .and_then(|previous| previous.orchestrator.as_ref());
    let Some(before) = before else {
        return Some(format!(
            "it is not known which {} is in {}: {how}",
            running.name, other.version
        ));
    };
    let older = match (minor(&before.version), minor(&running.version)) {
        (Some(before), Some(now)) => before < now,
        _ => before.version != running.version,
    };
    (older && before.name == running.name).then(|| {
        format!(
            "{} brings {} {}, and {} has run here: a cluster cannot go back a minor version; {how}",
            other.version, before.name, before.version, running.version
        )
    })
}

/// The first two numbers of a version such as `v1.36.4+k3s1`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datastore_goes_back_only_where_it_is_the_only_one() {
        let away = || Err("it does not answer".to_owned());
        for (servers, force, word) in [
            (Ok(0), false, None),
            (Ok(1), false, None),
            (Ok(3), false, Some("3 servers")),
            (Ok(3), true, Some("3 servers")),
            (away(), false, Some("it does not answer; --force")),
            (away(), true, None),
        ] {
            let why = not_restorable(servers.clone(), force);
            match word {
                None => assert_eq!(why, None, "{servers:?} {force}"),
                Some(word) => assert!(why.unwrap().contains(word), "{servers:?} {force}"),
            }
        }
    }

    #[test]
    fn the_minor_version_is_read() {
        for (text, want) in [
            ("v1.36.4+k3s1", Some((1, 36))),
            ("1.20.2", Some((1, 20))),
            ("0.1.0", Some((0, 1))),
            ("v1", None),
            ("latest", None),
        ] {
            assert_eq!(minor(text), want, "{text}");
        }
    }
}
