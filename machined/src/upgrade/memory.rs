//! Keeps the record in META: every change is on the disk before anybody acts on it.

use super::{disk::Disk, record::Record};
use anyhow::Context as _;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The record, and where it is kept.
pub(crate) struct Memory {
    disk: Disk,
    writing: Mutex<()>,
    record: watch::Sender<Record>,
}

impl Memory {
    /// Reads the record. What cannot be read is told, and begins anew: the machine runs, and
    /// the boot loader has its own count.
    pub(crate) fn load(disk: Disk) -> anyhow::Result<(Self, Option<String>)> {
        let log = disk.log()?;
        let (record, problem) = match log.latest() {
            None => (Record::default(), None),
            Some(newest) => match Record::parse(&newest.payload) {
                Ok(record) => (record, None),
                Err(error) => (
                    Record::default(),
                    Some(format!("{:#}", anyhow::Error::from(error))),
                ),
            },
        };
        let memory = Memory {
            disk,
            writing: Mutex::default(),
            record: watch::Sender::new(record),
        };
        Ok((memory, problem))
    }

    /// The record as it is now.
    pub(crate) fn read(&self) -> Record {
        self.record.borrow().clone()
    }

    /// The record, and every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    /// Changes the record. On an error it is as before. Blocking.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Record)) -> anyhow::Result<()> {
        let _held = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = self.read();
        change(&mut record);
        if record == *self.record.borrow() {
            return Ok(());
        }
        let bytes = record.bytes()?;
        self.disk
            .append(&bytes)
            .context("remembering where the upgrade stands")?;
        self.record.send_replace(record);
        Ok(())
    }
}
