//! What waits to be sent to machined. Bounded: PID 1 neither blocks nor grows when
//! machined does not read.
//!
//! When the queue is full the events in it are dropped, responses are kept, and once
//! everything has been sent the owner is asked for a list of all services, which tells
//! machined that it has to look again. Responses cannot pile up, because no request is
//! read while one of them waits.

use std::collections::VecDeque;

/// The most messages that wait.
pub(super) const CAPACITY: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Event,
    Response,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Kind, Vec<u8>)>,
    lost: bool,
}

impl Outbox {
    /// Adds an event; it may be dropped.
    pub(super) fn event(&mut self, bytes: Vec<u8>) {
        if self.lost {
            // machined will be told to look again: it needs no more details.
            return;
        }
        if self.waiting.len() >= CAPACITY {
            self.waiting.retain(|(kind, _)| *kind == Kind::Response);
            self.lost = true;
            return;
        }
        self.waiting.push_back((Kind::Event, bytes));
    }

    /// Adds a response; it is kept.
    pub(super) fn response(&mut self, bytes: Vec<u8>) {
        self.waiting.push_back((Kind::Response, bytes));
    }

    /// The next message to send.
    pub(super) fn front(&self) -> Option<&[u8]> {
        self.waiting.front().map(|(_, bytes)| bytes.as_slice())
    }

    /// The front was sent.
    pub(super) fn pop(&mut self) {
        self.waiting.pop_front();
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether events were dropped and all else is sent: the list is due. Says so once.
    pub(super) fn take_lost(&mut self) -> bool {
        self.is_empty() && std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_events_and_keeps_responses() {
        let mut outbox = Outbox::default();
        outbox.response(vec![1]);
        for _ in 0..CAPACITY * 3 {
            outbox.event(vec![2]);
        }
        assert_eq!(outbox.front(), Some(&[1][..]));
        assert!(!outbox.take_lost(), "not before the rest is sent");
        outbox.pop();
        assert!(outbox.is_empty());
        assert!(outbox.take_lost());
        assert!(!outbox.take_lost(), "once");
        outbox.event(vec![3]);
        assert_eq!(outbox.front(), Some(&[3][..]));
    }

    #[test]
    fn order_is_kept() {
        let mut outbox = Outbox::default();
        outbox.event(vec![1]);
        outbox.response(vec![2]);
        outbox.event(vec![3]);
        let mut seen = vec![];
        while let Some(bytes) = outbox.front() {
            seen.push(bytes[0]);
            outbox.pop();
        }
        assert_eq!(seen, [1, 2, 3]);
    }
}
