//! A config that is stored and counts from the next boot on. A note names it; whoever
//! reads the configs first after a boot switches to it. A config that is stored later
//! overtakes it, so that a note with an older number than the current one says nothing.
//!
//! ```text
//! put N.yaml ─> put N.json ─> put the note ─── reboot ──> put current ─> delete the note
//! ```

use super::{Configs, Op, delete, make_private, next, puts, switch};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    time::{Duration, SystemTime},
};

/// The file that names the config.
pub(super) const NOTE: &str = "staged";

/// The version of the note.
const FORMAT: u32 = 1;

/// A config that waits for the next boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    /// The number it was stored under.
    pub generation: u64,
    /// When it was stored.
    pub applied: SystemTime,
    /// Who brought it.
    pub source: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    format_version: u32,
    generation: u64,
    /// The boot in which it was stored, as /proc/sys/kernel/random/boot_id has it: a
    /// machined that is started again in it does not switch yet.
    boot: String,
    /// Seconds since 1970.
    applied: u64,
    source: String,
}

impl Configs {
    /// Stores a config that counts from the next boot on, in the place of the one that
    /// waited before. `boot` is the running boot's id.
    pub(crate) fn stage(
        &self,
        bytes: &[u8],
        source: &str,
        applied: SystemTime,
        boot: &str,
    ) -> io::Result<Staged> {
        make_private(&self.dir)?;
        let generation = next(&self.known()?, self.current());
        let mut ops = puts(generation, bytes, source, &self.release, applied);
        let seconds = applied.duration_since(SystemTime::UNIX_EPOCH);
        let note = Note {
            format_version: FORMAT,
            generation,
            boot: boot.to_owned(),
            applied: seconds.unwrap_or_default().as_secs(),
            source: source.to_owned(),
        };
        ops.push(Op::Put(NOTE.into(), serde_json::to_vec(&note)?));
        if let Some(before) = self.note() {
            ops.extend(delete(before.generation));
        }
        self.apply_all(&ops)?;
        Ok(note.into())
    }

    /// The config that waits for the next boot.
    pub(crate) fn staged(&self) -> Option<Staged> {
        self.note().map(Staged::from)
    }

    /// Calls off what waits; its number is free again.
    pub(crate) fn unstage(&self) -> io::Result<Option<Staged>> {
        let Some(note) = self.note() else {
            return Ok(None);
        };
        self.apply(&Op::Delete(NOTE.into()))?;
        self.apply_all(&delete(note.generation))?;
        Ok(Some(note.into()))
    }

    /// Switches to what waited for this boot; its number. `boot` is the running boot's
    /// id. One that this release does not read is called off: the error says so.
    pub(crate) fn switch_to_staged(&self, boot: &str) -> Result<Option<u64>, String> {
        let later = |note: &Note| note.boot != boot || boot.is_empty();
        let Some(note) = self.note().filter(later) else {
            return Ok(None);
        };
        let generation = note.generation;
        let done = match self.read(generation) {
            Ok(_) => self.known().and_then(|known| {
                self.apply_all(&switch(&known, self.current(), generation, &self.release))
            }),
            Err(why) => {
                let dropped = self.unstage();
                let text = format!("config {generation}, staged for this boot, is not used: {why}");
                return Err(match dropped {
                    Ok(_) => text,
                    Err(error) => format!("{text}; and it cannot be deleted: {error}"),
                });
            }
        };
        match done {
            Ok(()) => Ok(Some(generation)),
            Err(error) => Err(format!(
                "config {generation}, staged for this boot, cannot be switched to: {error}"
            )),
        }
    }

    fn note(&self) -> Option<Note> {
        let note: Note = serde_json::from_slice(&fs::read(self.dir.join(NOTE)).ok()?).ok()?;
        let overtaken = self
            .current()
            .is_some_and(|current| note.generation <= current);
        (note.format_version == FORMAT && !overtaken).then_some(note)
    }
}

impl From<Note> for Staged {
    fn from(note: Note) -> Staged {
        Staged {
            generation: note.generation,
            applied: SystemTime::UNIX_EPOCH + Duration::from_secs(note.applied),
            source: note.source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{at, config, names, store};

    #[test]
    fn it_counts_from_the_next_boot_on() {
        let (_dir, configs) = store();
        configs.save(&config("one"), "a", at(1)).unwrap();
        let staged = configs
            .stage(&config("two"), "CN=b", at(2), "boot-1")
            .unwrap();
        assert_eq!((staged.generation, staged.applied), (2, at(2)));
        assert_eq!(configs.staged(), Some(staged));
        // machined was started again.
        assert_eq!(configs.switch_to_staged("boot-1"), Ok(None));
        assert_eq!(configs.load().config.unwrap().generation, 1);
        // The machine was.
        assert_eq!(configs.switch_to_staged("boot-2"), Ok(Some(2)));
        let loaded = configs.load();
        assert_eq!(loaded.problems, [""; 0]);
        let loaded = loaded.config.unwrap();
        assert_eq!((loaded.generation, loaded.source.as_str()), (2, "CN=b"));
        assert_eq!(configs.staged(), None);
        assert_eq!(configs.switch_to_staged("boot-2"), Ok(None));
    }

    #[test]
    fn the_last_word_counts() {
        let (_dir, configs) = store();
        let stage = |text: &str| configs.stage(&config(text), "b", at(2), "boot-1");
        configs.save(&config("one"), "a", at(1)).unwrap();
        assert_eq!(stage("two").unwrap().generation, 2);
        assert_eq!(stage("three").unwrap().generation, 3);
        assert!(!names(&configs).contains(&"2.yaml".to_owned()));
        // What is stored and counts at once overtakes what waits.
        assert_eq!(configs.save(&config("four"), "a", at(3)).unwrap(), 4);
        assert_eq!(configs.staged(), None);
        assert_eq!(configs.switch_to_staged("boot-2"), Ok(None));
        assert_eq!(configs.load().config.unwrap().generation, 4);
        // What is called off leaves nothing.
        stage("five").unwrap();
        assert_eq!(configs.unstage().unwrap().unwrap().generation, 5);
        assert_eq!(configs.unstage().unwrap(), None);
        assert_eq!(configs.switch_to_staged("boot-2"), Ok(None));
        assert!(!names(&configs).iter().any(|name| name.starts_with('5')));
    }

    #[test]
    fn one_that_this_release_does_not_read_is_called_off() {
        let (_dir, configs) = store();
        configs.save(&config("one"), "a", at(1)).unwrap();
        let hover = String::from_utf8(config("two")).unwrap();
        let hover = hover.replace("  role: none", "  role: none\n  hover: true");
        configs
            .stage(hover.as_bytes(), "b", at(2), "boot-1")
            .unwrap();
        let why = configs.switch_to_staged("boot-2").unwrap_err();
        assert!(why.contains("hover"), "{why}");
        assert_eq!(configs.switch_to_staged("boot-2"), Ok(None));
        assert_eq!(configs.load().config.unwrap().generation, 1);
    }

    /// Power is cut after each step of staging and of switching.
    #[test]
    fn a_cut_of_power_leaves_the_old_or_the_new() {
        let (old, new) = (config("old"), config("new"));
        for cut in 0..7 {
            let (_dir, configs) = store();
            configs.save(&old, "a", at(1)).unwrap();
            let (_other, whole) = store();
            whole.save(&old, "a", at(1)).unwrap();
            whole.stage(&new, "b", at(2), "boot-1").unwrap();
            let note = fs::read(whole.dir.join(NOTE)).unwrap();
            let mut ops = puts(2, &new, "b", "0.1.0", at(2));
            ops.push(Op::Put(NOTE.into(), note));
            let known = whole.known().unwrap();
            ops.extend(switch(&known, Some(1), 2, "0.1.0"));
            configs.apply_all(&ops[..cut.min(ops.len())]).unwrap();
            configs.switch_to_staged("boot-2").unwrap();
            let wanted = if cut < 3 { &old } else { &new };
            assert_eq!(&configs.load().config.unwrap().bytes, wanted, "{cut}");
            assert_eq!(configs.staged(), None, "{cut}");
        }
    }
}
