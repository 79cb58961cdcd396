//! IPv4 and UDP headers (RFC 791, RFC 768) around a DHCP message, for a link that has no
//! address yet. Pure. What comes in is hostile until every length and sum is checked.

use std::net::Ipv4Addr;

/// The server's port.
pub(crate) const SERVER: u16 = 67;
/// The client's port.
pub(crate) const CLIENT: u16 = 68;

const IP: usize = 20;
const UDP: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// A packet from 0.0.0.0 to everybody on the link.
pub(crate) fn broadcast(payload: &[u8]) -> Vec<u8> {
    build(
        (Ipv4Addr::UNSPECIFIED, CLIENT),
        (Ipv4Addr::BROADCAST, SERVER),
        payload,
    )
}

/// A packet. The payload is a DHCP message, which is far shorter than a packet may be;
/// what is beyond 65,507 bytes is cut off.
pub(crate) fn build(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(usize::from(u16::MAX) - IP - UDP)];
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let mut packet = Vec::with_capacity(IP + UDP + payload.len());
    packet.extend([0x45, 0]);
    packet.extend(length(IP + UDP + payload.len()));
    packet.extend([0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0]);
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    let sum = (!sum(0, &packet)).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(from.1.to_be_bytes());
    packet.extend(to.1.to_be_bytes());
    packet.extend(length(UDP + payload.len()));
    packet.extend([0, 0]);
    packet.extend(payload);
    // A sum of zero is written as all ones: zero says that there is none.
    let sum = match !udp_sum(&packet[..IP], &packet[IP..]) {
        0 => u16::MAX,
        sum => sum,
    };
    packet[IP + 6..IP + 8].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The payload of a whole UDP packet to the client's port. `unsummed` says that the UDP
/// checksum was never computed.
pub(crate) fn parse(packet: &[u8], unsummed: bool) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < IP {
        return None;
    }
    let total = usize::from(u16_at(packet, 2)?);
    let packet = packet.get(..total)?;
    let (ip, udp) = packet.split_at_checked(header)?;
    const MORE_OR_OFFSET: u16 = 0x3fff;
    if sum(0, ip) != u16::MAX || u16_at(ip, 6)? & MORE_OR_OFFSET != 0 || ip[9] != PROTOCOL_UDP {
        return None;
    }
    let length = usize::from(u16_at(udp, 4)?);
    if u16_at(udp, 2)? != CLIENT || length < UDP {
        return None;
    }
    let udp = udp.get(..length)?;
    let summed = !unsummed && u16_at(udp, 6)? != 0;
    if summed && udp_sum(ip, udp) != u16::MAX {
        return None;
    }
    Some(&udp[UDP..])
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The sum over UDP and its pseudo header. `ip` has at least 20 bytes.
fn udp_sum(ip: &[u8], udp: &[u8]) -> u16 {
    let addresses = sum(0, &ip[12..20]);
    let start = u32::from(addresses) + u32::from(PROTOCOL_UDP) + udp.len() as u32;
    sum(start, udp)
}

/// The ones' complement sum of 16-bit words (RFC 1071).
fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    #[test]
    fn a_packet_as_another_stack_writes_it() {
        // Captured: 127.0.0.1:67 to 127.0.0.1:68, "keelson", with both sums.
        let packet = [
            0x45, 0x00, 0x00, 0x23, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x3c, 0xc8, 0x7f, 0x00,
            0x00, 0x01, 0x7f, 0x00, 0x00, 0x01,
        ];
        let built = build(
            (Ipv4Addr::LOCALHOST, 67),
            (Ipv4Addr::LOCALHOST, 68),
            b"keelson",
        );
        assert_eq!(built[..20], packet);
        assert_eq!(parse(&built, false), Some(&b"keelson"[..]));
    }

    #[test]
    fn what_is_not_for_the_client_is_left_out() {
        let good = build((A, 67), (B, 68), b"payload");
        assert!(parse(&good, false).is_some());
        assert_eq!(
            parse(&build((A, 67), (B, 69), b"payload"), false),
            None,
            "another port"
        );
        assert_eq!(parse(&good[..good.len() - 1], false), None, "cut off");
        let mut padded = good.clone();
        padded.extend([0; 18]);
        assert_eq!(
            parse(&padded, false),
            Some(&b"payload"[..]),
            "padded by Ethernet"
        );
        for (byte, rule) in [
            (0, "version"),
            (1, "header sum"),
            (9, "protocol"),
            (6, "fragment"),
        ] {
            let mut bad = good.clone();
            bad[byte] ^= 0x20;
            assert_eq!(parse(&bad, false), None, "{rule}");
        }
    }

    #[test]
    fn a_wrong_sum_is_refused_unless_none_was_made() {
        let mut packet = build((A, 67), (B, 68), b"payload");
        packet[26] ^= 1;
        assert_eq!(parse(&packet, false), None);
        assert_eq!(
            parse(&packet, true),
            Some(&b"payload"[..]),
            "left to hardware"
        );
        packet[26..28].fill(0);
        assert_eq!(
            parse(&packet, false),
            Some(&b"payload"[..]),
            "the sender made none"
        );
    }

    proptest! {
        #[test]
        fn what_is_built_is_parsed(payload in prop::collection::vec(any::<u8>(), 0..1500)) {
            let packet = build((A, 67), (B, 68), &payload);
            prop_assert_eq!(parse(&packet, false), Some(&payload[..]));
        }

        #[test]
        fn one_flipped_bit_is_never_let_through_as_another_payload(
            payload in prop::collection::vec(any::<u8>(), 1..300),
            byte in 28usize..328,
            bit in 0u8..8,
        ) {
            let mut packet = build((A, 67), (B, 68), &payload);
            let byte = 28 + (byte - 28) % payload.len();
            packet[byte] ^= 1 << bit;
            prop_assert_eq!(parse(&packet, false), None);
        }

        #[test]
        fn anything_is_looked_at_without_a_panic(
            mut packet in prop::collection::vec(any::<u8>(), 0..200),
            first: bool,
            unsummed: bool,
        ) {
            if first && !packet.is_empty() {
                packet[0] = 0x40 | (packet[0] & 0xf);
            }
            parse(&packet, unsummed);
        }
    }
}
