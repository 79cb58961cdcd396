//! The messages that wait for one server: bounded in number and in bytes. What does not fit
//! is counted, and an entry that says how many stands in their place.

use super::line::Entry;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};
use tokio::sync::Notify;

/// How many messages may wait.
pub(super) const MOST: usize = 4096;

/// How many bytes they may take.
const MOST_BYTES: usize = 4 << 20;

/// What an entry takes beside its text.
const OVERHEAD: usize = 128;

/// A queue with one reader.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Something came.
    came: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// What was dropped and not told yet.
    gap: u64,
    counts: Counts,
}

/// What became of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Handed to the network.
    pub sent: u64,
    /// Left out.
    pub dropped: u64,
    /// Waiting.
    pub waiting: usize,
}

impl Queue {
    /// Puts a message at the end, if there is room.
    pub(super) fn push(&self, entry: &Arc<Entry>) {
        let mut inner = self.lock();
        inner.tell_gap();
        if inner.gap > 0 || !inner.fits(entry) {
            inner.drop_one();
            return;
        }
        inner.put(entry.clone());
        drop(inner);
        self.came.notify_one();
    }

    /// Counts messages that were lost before they could be put here.
    pub(super) fn lost(&self, count: u64) {
        let mut inner = self.lock();
        inner.gap += count;
        inner.counts.dropped += count;
        inner.tell_gap();
        drop(inner);
        self.came.notify_one();
    }

    /// The first messages, together about so many bytes, at least one; waits for it. They
    /// stay until they are [`Queue::done`].
    pub(super) async fn first(&self, bytes: usize) -> Vec<Arc<Entry>> {
        loop {
            {
                let inner = self.lock();
                let mut taken = 0;
                let batch: Vec<Arc<Entry>> = inner
                    .waiting
                    .iter()
                    .take_while(|entry| {
                        let fits = taken < bytes;
                        taken += size(entry);
                        fits
                    })
                    .cloned()
                    .collect();
                if !batch.is_empty() {
                    return batch;
                }
            }
            self.came.notified().await;
        }
    }

    /// Takes the first messages away: they were sent.
    pub(super) fn done(&self, count: usize) {
        let mut inner = self.lock();
        for _ in 0..count {
            if let Some(entry) = inner.waiting.pop_front() {
                inner.bytes -= size(&entry);
            }
        }
        inner.counts.sent += count as u64;
        inner.tell_gap();
    }

    /// Whether at least half of it is free.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.lock();
        inner.waiting.len() <= MOST / 2 && inner.bytes <= MOST_BYTES / 2
    }

    /// What became of the messages so far.
    pub(super) fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts {
            waiting: inner.waiting.len(),
            ..inner.counts
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fits(&self, entry: &Entry) -> bool {
        self.waiting.len() < MOST && self.bytes + size(entry) <= MOST_BYTES
    }

    fn put(&mut self, entry: Arc<Entry>) {
        self.bytes += size(&entry);
        self.waiting.push_back(entry);
    }

    fn drop_one(&mut self) {
        self.gap += 1;
        self.counts.dropped += 1;
    }

    /// Tells in its place how many are missing, once a good part is free: not after each
    /// message that goes out of a full queue.
    fn tell_gap(&mut self) {
        let free = self.waiting.len() <= MOST * 7 / 8 && self.bytes <= MOST_BYTES / 8 * 7;
        if self.gap > 0 && free {
            let entry = Entry::gap(self.gap, SystemTime::now());
            self.gap = 0;
            self.put(Arc::new(entry));
        }
    }
}

fn size(entry: &Entry) -> usize {
    entry.message.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(text: &str) -> Arc<Entry> {
        Arc::new(Entry::of_service("k3s", text, SystemTime::UNIX_EPOCH))
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_and_told_in_its_place() {
        let queue = Queue::default();
        for n in 0..MOST + 904 {
            queue.push(&entry(&n.to_string()));
        }
        let counts = queue.counts();
        assert_eq!((counts.waiting, counts.dropped), (MOST, 904));
        assert!(!queue.has_room());
        // Nothing comes before the gap is told.
        queue.done(1);
        queue.push(&entry("late"));
        assert_eq!(queue.counts().dropped, 905);
        queue.done(MOST / 2 + 1);
        queue.push(&entry("after"));
        assert!(queue.has_room());
        let all = queue.first(usize::MAX).await;
        let last: Vec<_> = all[all.len() - 3..]
            .iter()
            .map(|entry| (&*entry.message, entry.dropped))
            .collect();
        let gap = Entry::gap(905, SystemTime::UNIX_EPOCH);
        assert_eq!(
            last,
            [
                (&*(MOST - 1).to_string(), None),
                (&*gap.message, Some(905)),
                ("after", None)
            ]
        );
    }

    #[tokio::test]
    async fn the_gap_is_told_even_if_nothing_more_comes() {
        let queue = Queue::default();
        for _ in 0..=MOST {
            queue.push(&entry("x"));
        }
        queue.done(MOST);
        let all = queue.first(1).await;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].dropped, Some(1));
        queue.lost(3);
        assert_eq!(queue.first(usize::MAX).await[1].dropped, Some(3));
    }

    #[test]
    fn long_messages_are_bounded_too() {
        let queue = Queue::default();
        let long = entry(&"x".repeat(16 << 10));
        for _ in 0..1000 {
            queue.push(&long);
        }
        assert!(queue.counts().waiting < 256);
    }

    proptest! {
        /// Whatever comes and goes, each message was sent, waits, or is counted as dropped.
        #[test]
        fn every_message_is_accounted_for(steps in proptest::collection::vec(0..3000usize, 1..20)) {
            let queue = Queue::default();
            let mut pushed = 0;
            for (index, step) in steps.iter().enumerate() {
                if index % 2 == 0 {
                    for _ in 0..*step {
                        queue.push(&entry("x"));
                        pushed += 1;
                    }
                } else {
                    queue.done((*step).min(queue.counts().waiting));
                }
            }
            let counts = queue.counts();
            let gaps = queue.lock().waiting.iter().filter(|it| it.dropped.is_some()).count();
            prop_assert!(counts.waiting <= MOST);
            prop_assert!(counts.sent + counts.dropped + (counts.waiting - gaps) as u64 >= pushed);
        }
    }
}
