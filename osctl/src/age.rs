//! Times and durations as people read and write them.

use prost_types::Timestamp;
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A duration in at most two units, as kubectl shows ages: `45s`, `5m3s`, `3h`, `2d5h`, `1y40d`.
pub(crate) fn short(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let seconds = duration.as_secs();
    // Up to where a unit is shown alone, and up to where the next smaller one goes with it.
    let (big, big_name, small, small_name) = match seconds {
        0..120 => return format!("{seconds}s"),
        120..600 => (MINUTE, "m", 1, "s"),
        600..10_800 => return format!("{}m", seconds / MINUTE),
        10_800..28_800 => (HOUR, "h", MINUTE, "m"),
        28_800..172_800 => return format!("{}h", seconds / HOUR),
        172_800..691_200 => (DAY, "d", HOUR, "h"),
        691_200..63_072_000 => return format!("{}d", seconds / DAY),
        _ => (YEAR, "y", DAY, "d"),
    };
    match seconds % big / small {
        0 => format!("{}{big_name}", seconds / big),
        rest => format!("{}{big_name}{rest}{small_name}", seconds / big),
    }
}

/// How long ago a moment of the node was, by our clock; `-` if it is not known.
pub(crate) fn since(moment: Option<&Timestamp>, now: OffsetDateTime) -> String {
    match moment.and_then(moment_of) {
        // The node's clock may be ahead of ours.
        Some(moment) => short((now - moment).try_into().unwrap_or(Duration::ZERO)),
        None => "-".to_owned(),
    }
}

/// A moment of the node as `2026-01-31T12:00:00Z`; empty if it is not known.
pub(crate) fn rfc3339(moment: Option<&Timestamp>) -> String {
    moment
        .and_then(moment_of)
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A protobuf timestamp; `None` for one that was never set or makes no sense.
fn moment_of(timestamp: &Timestamp) -> Option<OffsetDateTime> {
    let seconds = OffsetDateTime::from_unix_timestamp(timestamp.seconds).ok()?;
    (timestamp.seconds != 0).then_some(seconds)
}

/// Reads `90s`, `10m`, `1h30m`, `2d`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration such as 90s, 10m or 1h30m");
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let mut chars = tail.chars();
        let factor = match chars.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86400,
            _ => return Err(invalid()),
        };
        let number: u64 = number.parse().map_err(|_| invalid())?;
        seconds = number
            .checked_mul(factor)
            .and_then(|more| seconds.checked_add(more))
            .filter(|&sum| sum <= 366 * 86400)
            .ok_or_else(invalid)?;
        rest = chars.as_str();
    }
    if text.is_empty() {
        Err(invalid())
    } else {
        Ok(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (303, "5m3s"),
            (3600, "60m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (100_000, "27h"),
            (190_800, "2d5h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (66_528_000, "2y40d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn moments() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        assert_eq!(since(Some(&at(1_799_999_697)), now), "5m3s");
        assert_eq!(
            since(Some(&at(1_800_000_060)), now),
            "0s",
            "the node's clock is ahead"
        );
        assert_eq!(since(Some(&at(0)), now), "-");
        assert_eq!(since(None, now), "-");
        assert_eq!(rfc3339(Some(&at(1_800_000_000))), "2027-01-15T08:00:00Z");
        assert_eq!(rfc3339(Some(&at(i64::MAX))), "");
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("1h30m", Some(5400)),
            ("2d", Some(172_800)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("m", None),
            ("10 m", None),
            ("-1s", None),
            ("1w", None),
            ("400d", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(parse(text).ok().map(|it| it.as_secs()), seconds, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,12}") {
            prop_assert!(parse(&text).is_ok_and(|it| it.as_secs() <= 366 * 86400) || parse(&text).is_err());
        }
    }
}
