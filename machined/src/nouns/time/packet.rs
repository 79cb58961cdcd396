//! The packets of SNTP (RFC 4330, RFC 5905): what a client sends, and which answers
//! it believes. Bytes and times in, values out.

use std::{fmt, time::Duration};

/// Nanoseconds since 1970. Wide, so that no sum of what comes in overflows.
pub(crate) type Nanos = i128;

pub(crate) const SECOND: Nanos = 1_000_000_000;

/// The length of a packet without extensions.
pub(crate) const LENGTH: usize = 48;

/// From 1900, where NTP counts from, to 1970: RFC 868.
const SINCE_1900: i64 = 2_208_988_800;

/// A server that is farther from its reference is not synchronised: MAXDISP in RFC 5905, section 7.2.
const MAX_DISPERSION: Nanos = 16 * SECOND;

/// Why an answer is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is no answer to our question; who sent it may be anyone.
    NotOurs,
    /// The server asks to be left alone (DENY, RSTR) or to be asked less often (RATE).
    Kiss([u8; 4]),
    /// The server says that it is not synchronised, or contradicts itself.
    Unusable(&'static str),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotOurs => f.write_str("is no answer to what was asked"),
            Refused::Kiss(code) if code.iter().all(u8::is_ascii_alphanumeric) => {
                write!(f, "refuses to answer: {}", String::from_utf8_lossy(code))
            }
            Refused::Kiss(_) => f.write_str("refuses to answer"),
            Refused::Unusable(why) => f.write_str(why),
        }
    }
}

/// What a believable answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What must be added to our clock to have the server's.
    pub(crate) offset: Nanos,
    /// How long question and answer were on their way.
    pub(crate) delay: Nanos,
    /// How wrong `offset` may be: the root distance of RFC 5905, appendix A.5.5.2.
    pub(crate) distance: Nanos,
    /// How many servers stand between it and a reference clock, itself counted.
    pub(crate) stratum: u8,
}

/// A question. The nonce stands where the client's clock may stand: the server gives
/// it back, and learns nothing of our clock.
pub(crate) fn question(nonce: u64) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    // No warning, version 4, client.
    packet[0] = 4 << 3 | 3;
    packet[40..48].copy_from_slice(&nonce.to_be_bytes());
    packet
}

/// Reads an answer to the question with this nonce, which was sent at `sent` and
/// answered at `received` by our clock. A server that is behind `earliest`, when the
/// image was built, is wrong.
pub(crate) fn answer(
    packet: &[u8],
    nonce: u64,
    sent: Nanos,
    received: Nanos,
    earliest: Duration,
) -> Result<Answer, Refused> {
    let Some(packet) = packet.first_chunk::<LENGTH>() else {
        return Err(Refused::NotOurs);
    };
    let word = |at: usize| {
        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
    };
    let stamp = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at + 4));
    let (leap, version, mode) = (packet[0] >> 6, packet[0] >> 3 & 7, packet[0] & 7);
    if mode != 4 || !(3..=4).contains(&version) || stamp(24) != nonce {
        return Err(Refused::NotOurs);
    }
    let stratum = packet[1];
    if stratum == 0 {
        return Err(Refused::Kiss([
            packet[12], packet[13], packet[14], packet[15],
        ]));
    }
    if leap == 3 || stratum > 15 {
        return Err(Refused::Unusable("says that it is not synchronised"));
    }
    // Signed in RFC 5905, but nobody can be nearer than there.
    let root_delay = short(word(4) as i32).max(0);
    let root_dispersion = short_unsigned(word(8));
    if root_delay / 2 + root_dispersion >= MAX_DISPERSION {
        return Err(Refused::Unusable("is too far from its reference"));
    }
    if stamp(32) == 0 || stamp(40) == 0 {
        return Err(Refused::Unusable("does not say what time it is"));
    }
    let (arrived, left) = (time(stamp(32), earliest), time(stamp(40), earliest));
    if left < earliest.as_nanos() as Nanos {
        return Err(Refused::Unusable(
            "is behind the day when this image was built",
        ));
    }
    let delay = (received - sent) - (left - arrived);
    // The clocks of both sides tick in steps; a little less than nothing is nothing.
    if left < arrived || delay < -SECOND / 1000 {
        return Err(Refused::Unusable("contradicts itself"));
    }
    let delay = delay.max(0);
    let offset = ((arrived - sent) + (left - received)) / 2;
    let distance = root_delay / 2 + root_dispersion + delay / 2 + SECOND / 1000;
    Ok(Answer {
        offset,
        delay,
        distance,
        stratum,
    })
}

/// 16 bits of seconds and 16 of their parts.
fn short(value: i32) -> Nanos {
    (Nanos::from(value) * SECOND) >> 16
}

fn short_unsigned(value: u32) -> Nanos {
    (Nanos::from(value) * SECOND) >> 16
}

/// 32 bits of seconds since 1900 and 32 of their parts. The seconds run over every
/// 136 years, next in 2036; what is meant is within 68 years of `near`.
fn time(stamp: u64, near: Duration) -> Nanos {
    const ERA: i64 = 1 << 32;
    let near = i64::try_from(near.as_secs()).unwrap_or(0);
    let seconds = i64::try_from(stamp >> 32).unwrap_or(0) - SINCE_1900;
    let seconds = near + (seconds - near + ERA / 2).rem_euclid(ERA) - ERA / 2;
    Nanos::from(seconds) * SECOND + ((Nanos::from(stamp & 0xffff_ffff) * SECOND) >> 32)
}

/// A time as an NTP timestamp.
#[cfg(test)]
pub(crate) fn stamp(time: Nanos) -> u64 {
    let seconds = (time.div_euclid(SECOND) + Nanos::from(SINCE_1900)) as u32;
    let parts = ((time.rem_euclid(SECOND) << 32) / SECOND) as u32;
    u64::from(seconds) << 32 | u64::from(parts)
}

/// What a good server answers.
#[cfg(test)]
pub(crate) fn reply(question: &[u8], arrived: Nanos, left: Nanos) -> Vec<u8> {
    let mut packet = vec![0; LENGTH];
    packet[0] = 4 << 3 | 4;
    packet[1] = 2;
    packet[24..32].copy_from_slice(&question[40..48]);
    packet[32..40].copy_from_slice(&stamp(arrived).to_be_bytes());
    packet[40..48].copy_from_slice(&stamp(left).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EARLIEST: Duration = Duration::from_secs(1_790_000_000);
    const NOW: Nanos = 1_790_000_100 * SECOND;

    fn near(a: Nanos, b: Nanos) -> bool {
        (a - b).abs() < 10
    }

    #[test]
    fn offset_and_delay() {
        // The server is 5 s ahead; 30 ms there, 10 ms there, 30 ms back.
        let (there, back) = (NOW + 5 * SECOND + 30_000_000, NOW + 5 * SECOND + 40_000_000);
        let packet = reply(&question(7), there, back);
        let answer = answer(&packet, 7, NOW, NOW + 70_000_000, EARLIEST).unwrap();
        assert!(near(answer.offset, 5 * SECOND), "{answer:?}");
        assert!(near(answer.delay, 60_000_000), "{answer:?}");
        assert!(near(answer.distance, 31_000_000), "{answer:?}");
    }

    #[test]
    fn what_is_not_believed() {
        let good = reply(&question(7), NOW, NOW);
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change, Refused); 13] = [
            ("cut", |p| p.truncate(47), Refused::NotOurs),
            ("another nonce", |p| p[31] ^= 1, Refused::NotOurs),
            ("a question", |p| p[0] = 4 << 3 | 3, Refused::NotOurs),
            ("a broadcast", |p| p[0] = 4 << 3 | 5, Refused::NotOurs),
            ("version 2", |p| p[0] = 2 << 3 | 4, Refused::NotOurs),
            (
                "alarm",
                |p| p[0] |= 3 << 6,
                Refused::Unusable("says that it is not synchronised"),
            ),
            (
                "stratum 16",
                |p| p[1] = 16,
                Refused::Unusable("says that it is not synchronised"),
            ),
            (
                "kiss of death",
                |p| {
                    p[1] = 0;
                    p[12..16].copy_from_slice(b"RATE");
                },
                Refused::Kiss(*b"RATE"),
            ),
            (
                "root dispersion",
                |p| p[8..12].copy_from_slice(&[0, 16, 0, 0]),
                Refused::Unusable("is too far from its reference"),
            ),
            (
                "root delay",
                |p| p[4..8].copy_from_slice(&[0, 32, 0, 0]),
                Refused::Unusable("is too far from its reference"),
            ),
            (
                "no time",
                |p| p[40..48].fill(0),
                Refused::Unusable("does not say what time it is"),
            ),
            (
                "left before it arrived",
                |p| p[32..40].copy_from_slice(&stamp(NOW + SECOND).to_be_bytes()),
                Refused::Unusable("contradicts itself"),
            ),
            (
                "older than the image",
                |p| {
                    p[32..40].copy_from_slice(&stamp(NOW - 3600 * SECOND).to_be_bytes());
                    p[40..48].copy_from_slice(&stamp(NOW - 3600 * SECOND).to_be_bytes());
                },
                Refused::Unusable("is behind the day when this image was built"),
            ),
        ];
        assert!(answer(&good, 7, NOW, NOW, EARLIEST).is_ok());
        for (name, change, want) in cases {
            let mut packet = good.clone();
            change(&mut packet);
            assert_eq!(answer(&packet, 7, NOW, NOW, EARLIEST), Err(want), "{name}");
        }
        // An answer faster than its own work.
        let slow = reply(&question(7), NOW, NOW + SECOND);
        assert_eq!(
            answer(&slow, 7, NOW, NOW, EARLIEST),
            Err(Refused::Unusable("contradicts itself"))
        );
    }

    #[test]
    fn the_seconds_run_over_in_2036() {
        let cases = [
            ("before", 2_085_978_000i64),
            ("after", 2_085_979_000),
            ("2090", 3_786_912_000),
        ];
        for (name, seconds) in cases {
            let there = Nanos::from(seconds) * SECOND;
            let packet = reply(&question(1), there, there);
            let answer = answer(&packet, 1, NOW, NOW, EARLIEST).unwrap();
            assert!(near(answer.offset, there - NOW), "{name}");
        }
    }

    #[test]
    fn a_kiss_is_readable() {
        assert_eq!(
            Refused::Kiss(*b"RATE").to_string(),
            "refuses to answer: RATE"
        );
        assert_eq!(
            Refused::Kiss([0x1b, b'[', b'3', b'm']).to_string(),
            "refuses to answer"
        );
    }

    proptest! {
        #[test]
        fn any_packet_is_answered(packet in proptest::collection::vec(any::<u8>(), 0..100), sent in any::<i64>(), took in 0..10_000_000_000i64) {
            let sent = Nanos::from(sent);
            if let Ok(answer) = answer(&packet, 0, sent, sent + Nanos::from(took), EARLIEST) {
                prop_assert!(answer.delay >= 0 && answer.distance > 0);
            }
        }
    }
}
