//! What goes out: one line of a log as a JSON object. Pure.

use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The longest line of a log that is one message; what is longer becomes several.
pub(super) const LONGEST: usize = 16 << 10;

/// What ends a message that was cut.
const CUT: &str = "…";

/// One message, before it is known to whom it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// When it was written or, where the log does not say, read.
    pub time: SystemTime,
    /// The log that it is from: "kernel", or a service.
    pub source: String,
    /// How bad it is, where the log says so.
    pub level: Option<&'static str>,
    /// The text.
    pub message: String,
    /// How many messages are missing before this one.
    pub dropped: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    node: &'a str,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    #[serde(flatten)]
    fields: &'a BTreeMap<String, String>,
}

impl Entry {
    /// A message of a service's log. What the programs write before it is taken apart: the
    /// time and the level of machined and apid, the level of the orchestrator.
    pub(super) fn of_service(source: &str, text: &str, read: SystemTime) -> Entry {
        let own = matches!(source, "machined" | "apid")
            .then(|| own_prefix(text))
            .flatten();
        let (time, level, message) = match own {
            Some((time, level, message)) => (time, Some(level), message),
            None => (read, level(text), text),
        };
        Entry {
            time,
            source: source.to_owned(),
            level,
            message: message.to_owned(),
            dropped: None,
        }
    }

    /// What stands for messages that are missing.
    pub(super) fn gap(dropped: u64, now: SystemTime) -> Entry {
        let noun = if dropped == 1 { "line" } else { "lines" };
        Entry {
            time: now,
            source: "machined".to_owned(),
            level: Some("warning"),
            message: format!("{dropped} {noun} had to be left out here: the server took no more"),
            dropped: Some(dropped),
        }
    }

    /// As a line, of at most `limit` bytes: what is too much is cut off its message.
    pub(super) fn render(
        &self,
        node: &str,
        fields: &BTreeMap<String, String>,
        limit: usize,
    ) -> Vec<u8> {
        let whole = self.json(&self.message, node, fields);
        if whole.len() <= limit {
            return whole;
        }
        // A byte of the message is at least one of the line.
        let excess = whole.len() - limit + CUT.len();
        let mut keep = self.message.len().saturating_sub(excess);
        while !self.message.is_char_boundary(keep) {
            keep -= 1;
        }
        self.json(&format!("{}{CUT}", &self.message[..keep]), node, fields)
    }

    fn json(&self, message: &str, node: &str, fields: &BTreeMap<String, String>) -> Vec<u8> {
        let line = Line {
            time: rfc3339(self.time),
            node,
            source: &self.source,
            level: self.level,
            message,
            dropped: self.dropped,
            fields,
        };
        // Texts and numbers can always be written.
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        json.push(b'\n');
        json
    }
}

/// A moment as RFC 3339 writes it, in UTC, to the millisecond.
fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}

/// The word for a priority of syslog.
pub(super) fn priority(priority: u32) -> &'static str {
    match priority {
        0..=2 => "critical",
        3 => "error",
        4 => "warning",
        5 => "notice",
        6 => "info",
        _ => "debug",
    }
}

/// The moment of a record of the kernel's log: it counts from the start of the machine, on
/// the clock that `since_start` tells.
pub(super) fn kernel_time(timestamp_us: u64, now: SystemTime, since_start: Duration) -> SystemTime {
    let age = since_start.saturating_sub(Duration::from_micros(timestamp_us));
    now.checked_sub(age).unwrap_or(now)
}

/// `2026-11-26T14:00:00.123456Z  INFO message`, as our own programs write.
fn own_prefix(text: &str) -> Option<(SystemTime, &'static str, &str)> {
    let (time, rest) = text.split_once(' ')?;
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    let (word, message) = rest.trim_start().split_once(' ')?;
    Some((time.into(), named(word)?, message))
}

/// The level that a line says of itself, where it is written as Kubernetes's programs do:
/// `time="…" level=info msg=…`, `I1126 14:00:00.000000 …` or `{"level":"info",…`.
fn level(text: &str) -> Option<&'static str> {
    let head: String = text.chars().take(200).collect();
    if head.starts_with("time=")
        && let Some((_, rest)) = head.split_once(" level=")
    {
        return named(rest.split(' ').next()?);
    }
    if head.starts_with('{')
        && let Some((_, rest)) = head.split_once("\"level\":\"")
    {
        return named(rest.split('"').next()?);
    }
    let mut chars = head.chars();
    let letter = chars.next()?;
    let digits = chars.by_ref().take(4).filter(char::is_ascii_digit).count();
    if digits != 4 || chars.next() != Some(' ') {
        return None;
    }
    match letter {
        'I' => Some("info"),
        'W' => Some("warning"),
        'E' => Some("error"),
        'F' => Some("critical"),
        _ => None,
    }
}

fn named(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "trace" | "debug" => "debug",
        "info" => "info",
        "notice" => "notice",
        "warn" | "warning" => "warning",
        "error" => "error",
        "fatal" | "panic" | "critical" => "critical",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(ms: u64) -> SystemTime {
        START + Duration::from_millis(ms)
    }

    fn fields(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn lines() {
        let entry = |level, message: &str, dropped| Entry {
            time: at(1_795_701_600_007),
            source: "k3s".to_owned(),
            level,
            message: message.to_owned(),
            dropped,
        };
        let none = fields(&[]);
        let shop = fields(&[("cluster", "shop-7"), ("rack", "1\"2")]);
        let cases = [
            (
                entry(None, "it runs", None),
                &none,
                r#"{"time":"2026-11-26T14:00:00.007Z","node":"a","source":"k3s","message":"it runs"}"#,
            ),
            (
                entry(Some("info"), "say \"x\"\t\u{1b}[0m ü", None),
                &shop,
                r#"{"time":"2026-11-26T14:00:00.007Z","node":"a","source":"k3s","level":"info","message":"say \"x\"\t\u001b[0m ü","cluster":"shop-7","rack":"1\"2"}"#,
            ),
            (
                Entry::gap(904, at(0)),
                &none,
                r#"{"time":"1970-01-01T00:00:00.000Z","node":"a","source":"machined","level":"warning","message":"904 lines had to be left out here: the server took no more","dropped":904}"#,
            ),
        ];
        for (entry, fields, wanted) in cases {
            let line = String::from_utf8(entry.render("a", fields, 8192)).unwrap();
            assert_eq!(line, format!("{wanted}\n"));
        }
    }

    #[test]
    fn what_programs_write_before_their_messages() {
        let read = at(5);
        let cases = [
            (
                "machined",
                "1970-01-01T00:00:01.500000Z  INFO config: generation 1 stored by x",
                (at(1500), Some("info"), "config: generation 1 stored by x"),
            ),
            (
                "apid",
                "1970-01-01T00:00:01.500000Z ERROR no",
                (at(1500), Some("error"), "no"),
            ),
            (
                "machined",
                "thread 'main' panicked at x",
                (read, None, "thread 'main' panicked at x"),
            ),
            (
                "k3s",
                "1970-01-01T00:00:01.500000Z  INFO x",
                (read, None, "1970-01-01T00:00:01.500000Z  INFO x"),
            ),
            (
                "k3s",
                "time=\"2026-11-26T14:00:00Z\" level=warning msg=\"level=info\"",
                (
                    read,
                    Some("warning"),
                    "time=\"2026-11-26T14:00:00Z\" level=warning msg=\"level=info\"",
                ),
            ),
            (
                "k3s",
                "E1126 14:00:00.000000       1 reflector.go:1] no",
                (
                    read,
                    Some("error"),
                    "E1126 14:00:00.000000       1 reflector.go:1] no",
                ),
            ),
            (
                "k3s",
                "{\"level\":\"warn\",\"msg\":\"x\"}",
                (read, Some("warning"), "{\"level\":\"warn\",\"msg\":\"x\"}"),
            ),
            ("k3s", "Ex123 x", (read, None, "Ex123 x")),
            ("k3s", "", (read, None, "")),
        ];
        for (source, text, (time, level, message)) in cases {
            let entry = Entry::of_service(source, text, read);
            assert_eq!(
                (entry.time, entry.level, &*entry.message),
                (time, level, message),
                "{text}"
            );
        }
    }

    #[test]
    fn the_kernels_clock_becomes_the_walls() {
        let now = at(100_000);
        let up = Duration::from_secs(60);
        assert_eq!(kernel_time(0, now, up), at(40_000));
        assert_eq!(kernel_time(59_000_000, now, up), at(99_000));
        assert_eq!(kernel_time(61_000_000, now, up), now);
    }

    proptest! {
        #[test]
        fn every_line_is_one_object_within_its_limit(
            message in "\\PC{0,300}|[\\x00-\\x1f\"\\\\üß]{0,300}",
            value in "[^\\x00-\\x1f]{0,30}",
            limit in 400..1200usize,
        ) {
            let entry = Entry {
                time: at(1),
                source: "kernel".into(),
                level: Some("info"),
                message: message.clone(),
                dropped: None,
            };
            let fields = fields(&[("cluster", &value)]);
            let line = entry.render("node-1", &fields, limit);
            prop_assert!(line.len() <= limit);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(json["cluster"].as_str(), Some(&*value));
            let said = json["message"].as_str().unwrap();
            let kept = said.strip_suffix(CUT).filter(|_| said != message);
            prop_assert!(message.starts_with(kept.unwrap_or(said)));
            prop_assert!(kept.is_some() || said == message);
        }

        #[test]
        fn any_text_is_answered(text in ".*") {
            Entry::of_service("machined", &text, START);
            Entry::of_service("k3s", &text, START);
        }
    }
}
