//! What happens on the machine, in words: a bounded ring that can be replayed and
//! followed, and the same line in machined's own log. Never a secret.

use futures_util::{Stream, stream};
use keelson_api::v1::Event;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};
use tokio::sync::watch;

/// How many events are kept.
const KEPT: usize = 1000;

/// The events of this run of machined.
#[derive(Debug)]
pub(crate) struct Events {
    ring: Mutex<VecDeque<Event>>,
    /// The sequence number of the newest event.
    newest: watch::Sender<u64>,
}

impl Events {
    /// No events yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Events {
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
        })
    }

    /// Records that something happened. `subject` is what it is about, for example
    /// "config" or "service/apid".
    pub(crate) fn say(&self, subject: &str, message: impl Into<String>) {
        let message = message.into();
        tracing::info!("{subject}: {message}");
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = ring.back().map_or(0, |e| e.sequence) + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Event {
            sequence,
            time: Some(SystemTime::now().into()),
            subject: subject.to_owned(),
            message,
        });
        drop(ring);
        self.newest.send_replace(sequence);
    }

    /// Events in order: those from now on, or from the oldest that is kept. A reader
    /// that falls more than the ring behind misses the oldest; the sequence shows it.
    pub(crate) fn follow(
        self: &Arc<Self>,
        replay: bool,
    ) -> impl Stream<Item = Event> + Send + use<> {
        let newest = self.newest.subscribe();
        let last = if replay { 0 } else { *newest.borrow() };
        stream::unfold(
            (self.clone(), newest, last),
            |(events, mut newest, last)| async move {
                newest.wait_for(|newest| *newest > last).await.ok()?;
                let event = events.after(last)?;
                let last = event.sequence;
                Some((event, (events, newest, last)))
            },
        )
    }

    /// The oldest event that is kept and newer than a sequence number.
    fn after(&self, sequence: u64) -> Option<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.front()?.sequence;
        let index = usize::try_from((sequence + 1).saturating_sub(first)).ok()?;
        ring.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use std::pin::pin;

    #[tokio::test]
    async fn a_replay_begins_with_the_oldest_kept_and_goes_on() {
        let events = Events::new();
        for n in 1..=KEPT + 5 {
            events.say("test", format!("event {n}"));
        }
        let mut stream = pin!(events.follow(true));
        assert_eq!(stream.next().await.map(|e| e.sequence), Some(6));
        for n in 7..=KEPT as u64 + 5 {
            assert_eq!(stream.next().await.map(|e| e.sequence), Some(n));
        }
        events.say("test", "one more");
        assert_eq!(
            stream.next().await.map(|e| e.message),
            Some("one more".into())
        );
    }

    #[tokio::test]
    async fn without_replay_only_what_comes_later() {
        let events = Events::new();
        events.say("test", "before");
        let mut stream = pin!(events.follow(false));
        events.say("test", "after");
        assert_eq!(stream.next().await.map(|e| e.message), Some("after".into()));
    }

    #[tokio::test]
    async fn a_reader_that_fell_behind_goes_on_with_what_is_kept() {
        let events = Events::new();
        let mut stream = pin!(events.follow(false));
        for n in 1..=KEPT + 3 {
            events.say("test", format!("event {n}"));
        }
        assert_eq!(stream.next().await.map(|e| e.sequence), Some(4));
    }
}
