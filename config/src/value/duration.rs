//! Durations as Kubernetes writes them.

use super::Wrong;
use crate::tree::quote;
use std::{ops::RangeInclusive, time::Duration};

/// A duration as Kubernetes writes it, in whole hours, minutes and seconds: `90s`, `1h30m`.
pub(crate) fn duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let malformed = || {
        Wrong::new(format!("{} is not a duration", quote(text)))
            .hint("write hours, minutes and seconds, as in 10m or 1h30m")
    };
    let mut seconds: u64 = 0;
    let mut rest = text;
    // Each unit once, the larger first.
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, after)) = rest.split_once(unit) else {
            continue;
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let count: u64 = digits.parse().map_err(|_| malformed())?;
        seconds = count
            .checked_mul(length)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(malformed)?;
        rest = after;
    }
    if !rest.is_empty() || text.is_empty() {
        return Err(malformed());
    }
    let duration = Duration::from_secs(seconds);
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (range.start().as_secs(), range.end().as_secs());
    Err(Wrong::new(format!(
        "{} is not between {} and {}",
        quote(text),
        short(least),
        short(most)
    )))
}

/// A number of seconds in the largest unit that fits.
fn short(seconds: u64) -> String {
    match seconds {
        0 => "0s".to_owned(),
        n if n.is_multiple_of(3600) => format!("{}h", n / 3600),
        n if n.is_multiple_of(60) => format!("{}m", n / 60),
        n => format!("{n}s"),
    }
}
