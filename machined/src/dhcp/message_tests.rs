//! Messages against another implementation of the format, and against noise.

use super::*;
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{self, DhcpOption, OptionCode},
};
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

fn request() -> Request<'static> {
    Request {
        kind: Kind::Request,
        transaction: 0x1234_5678,
        seconds: 7,
        mac: MAC,
        hostname: "server-1",
        client: Ipv4Addr::UNSPECIFIED,
        requested: Some(ADDRESS),
        server: Some(GATEWAY),
    }
}

/// A server's message, by the other implementation.
fn message(kind: v4::MessageType, options: impl IntoIterator<Item = DhcpOption>) -> v4::Message {
    let mut message = v4::Message::default();
    message
        .set_opcode(v4::Opcode::BootReply)
        .set_xid(0x1234_5678)
        .set_chaddr(&MAC.0)
        .set_yiaddr(ADDRESS);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    message
}

#[test]
fn another_implementation_reads_a_request() {
    let bytes = request().encode();
    assert!(bytes.len() >= SHORTEST);
    let read = v4::Message::from_bytes(&bytes).unwrap();
    assert_eq!(read.opcode(), v4::Opcode::BootRequest);
    assert_eq!(
        (read.xid(), read.secs(), read.chaddr()),
        (0x1234_5678, 7, &MAC.0[..])
    );
    let options = read.opts();
    assert_eq!(options.msg_type(), Some(v4::MessageType::Request));
    assert_eq!(
        options.get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(ADDRESS))
    );
    assert_eq!(
        options.get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(GATEWAY))
    );
    assert_eq!(
        options.get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("server-1".into()))
    );
    let mut id = vec![1];
    id.extend(MAC.0);
    assert_eq!(
        options.get(OptionCode::ClientIdentifier),
        Some(&DhcpOption::ClientIdentifier(id))
    );
}

#[test]
fn a_discover_asks_for_nothing_in_particular() {
    let bytes = Request {
        kind: Kind::Discover,
        requested: None,
        server: None,
        hostname: "",
        ..request()
    }
    .encode();
    let read = v4::Message::from_bytes(&bytes).unwrap();
    assert_eq!(read.opts().msg_type(), Some(v4::MessageType::Discover));
    for code in [
        OptionCode::RequestedIpAddress,
        OptionCode::ServerIdentifier,
        OptionCode::Hostname,
    ] {
        assert_eq!(read.opts().get(code), None);
    }
}

#[test]
fn what_another_implementation_writes_is_read() {
    let near = Ipv4Addr::new(10, 0, 2, 9);
    let bytes = message(
        v4::MessageType::Ack,
        [
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![GATEWAY, near]),
            DhcpOption::DomainNameServer(vec![near]),
            DhcpOption::Hostname("node".into()),
            DhcpOption::DomainName("example.com".into()),
            DhcpOption::InterfaceMtu(1400),
            DhcpOption::AddressLeaseTime(3600),
            DhcpOption::ServerIdentifier(GATEWAY),
            DhcpOption::Renewal(100),
            DhcpOption::Rebinding(200),
            DhcpOption::ClasslessStaticRoute(vec![("192.168.0.0/17".parse().unwrap(), near)]),
        ],
    )
    .to_vec()
    .unwrap();
    let want = Reply {
        kind: Kind::Ack,
        transaction: 0x1234_5678,
        address: Some(ADDRESS),
        server: Some(GATEWAY),
        mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
        routers: vec![GATEWAY, near],
        classless: vec![(Ipv4Addr::new(192, 168, 0, 0), 17, near)],
        dns: vec![near],
        domain: Some("example.com".into()),
        hostname: Some("node".into()),
        mtu: Some(1400),
        lease: Some(3600),
        renew: Some(100),
        rebind: Some(200),
        message: None,
    };
    assert_eq!(Reply::decode(&bytes, MAC), Some(want));
}

/// A reply with these bytes as its options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; OPTIONS];
    bytes[..3].copy_from_slice(&[BOOT_REPLY, ETHERNET, 6]);
    bytes[28..34].copy_from_slice(&MAC.0);
    bytes[236..240].copy_from_slice(&COOKIE);
    bytes.extend(options);
    bytes
}

#[test]
fn what_is_not_a_reply_to_this_client_is_left_out() {
    let good = with_options(&[KIND, 1, 2, END]);
    assert!(Reply::decode(&good, MAC).is_some());
    assert_eq!(
        Reply::decode(&good, MacAddr([0x52, 0x54, 0, 0, 0, 1])),
        None,
        "another's"
    );
    for (byte, rule) in [
        (0, "a request"),
        (1, "not Ethernet"),
        (2, "a short address"),
    ] {
        let mut bad = good.clone();
        bad[byte] = 1 - bad[byte].min(1);
        assert_eq!(Reply::decode(&bad, MAC), None, "{rule}");
    }
    let mut bad = good.clone();
    bad[236] = 0;
    assert_eq!(Reply::decode(&bad, MAC), None, "BOOTP");
    assert_eq!(
        Reply::decode(&with_options(&[END]), MAC),
        None,
        "of no kind"
    );
    assert_eq!(
        Reply::decode(&with_options(&[KIND, 1, 8, END]), MAC),
        None,
        "an inform"
    );
    assert_eq!(Reply::decode(&good[..200], MAC), None, "too short");
}

#[test]
fn an_option_that_makes_no_sense_does_not_spoil_the_rest() {
    let bytes = with_options(&[
        PAD, LEASE, 3, 1, 2, 3, KIND, 1, 5, DNS, 5, 10, 0, 2, 3, 9, RENEW, 4, 0, 0, 0, 9, 80, 2, 1,
        1, CLASSLESS, 2, 40, 1, END, SERVER, 4, 1, 1, 1, 1,
    ]);
    let reply = Reply::decode(&bytes, MAC).unwrap();
    assert_eq!((reply.lease, reply.renew), (None, Some(9)));
    assert_eq!(reply.dns, [Ipv4Addr::new(10, 0, 2, 3)]);
    assert_eq!(
        (reply.classless, reply.server),
        (vec![], None),
        "nothing behind the end"
    );
}

#[test]
fn an_option_that_runs_over_the_end_ends_the_message() {
    let bytes = with_options(&[KIND, 1, 2, SERVER, 200, 10, 0]);
    let reply = Reply::decode(&bytes, MAC).unwrap();
    assert_eq!(reply.server, None);
}

#[test]
fn options_in_pieces_and_in_other_fields_are_put_together() {
    let mut bytes = with_options(&[KIND, 1, 5, DNS, 2, 10, 0, OVERLOAD, 1, 3, DNS, 2, 2, 3, END]);
    bytes[108..115].copy_from_slice(&[SERVER, 4, 10, 0, 2, 2, END]);
    bytes[44..50].copy_from_slice(&[LEASE, 4, 0, 0, 0, 99]);
    let reply = Reply::decode(&bytes, MAC).unwrap();
    assert_eq!(reply.dns, [Ipv4Addr::new(10, 0, 2, 3)]);
    assert_eq!((reply.server, reply.lease), (Some(GATEWAY), Some(99)));
}

proptest! {
    #[test]
    fn anything_is_read_without_a_panic(
        options in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((0usize..240, any::<u8>()), 0..4),
    ) {
        let mut bytes = with_options(&options);
        for (at, value) in flips {
            bytes[at] = value;
        }
        Reply::decode(&bytes, MAC);
        Reply::decode(&options, MAC);
    }

    #[test]
    fn known_options_with_any_length_are_read_without_a_panic(
        options in prop::collection::vec(
            (prop::sample::select(vec![
                MASK, ROUTER, DNS, HOSTNAME, DOMAIN, MTU, LEASE, OVERLOAD, KIND, SERVER, MESSAGE,
                RENEW, REBIND, CLASSLESS,
            ]), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let mut bytes = with_options(&[KIND, 1, 5]);
        for (code, value) in options {
            bytes.extend([code, value.len() as u8]);
            bytes.extend(value);
        }
        if let Some(reply) = Reply::decode(&bytes, MAC) {
            super::super::lease::Lease::read(&reply);
        }
    }
}
