//! Messages against another implementation, and against noise.

use super::*;
use dhcproto::{
    Decodable as _, Encodable as _,
    v6::{self, DhcpOption, OptionCode},
};
use proptest::prelude::*;

const DUID_LL: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

#[test]
fn another_implementation_reads_what_is_asked() {
    let request = Message {
        kind: Kind::Request,
        transaction: 0x12_34_56,
        client: DUID_LL.to_vec(),
        server: vec![0, 1, 2, 3],
        associations: vec![Association {
            id: 7,
            addresses: vec![Lent {
                address: address("2001:db8::15"),
                preferred: 0,
                valid: 0,
                status: 0,
            }],
            ..Association::default()
        }],
        wanted: vec![DNS, SEARCH, LONGEST],
        elapsed: Some(150),
        ..Message::default()
    };
    let read = v6::Message::from_bytes(&request.encode()).unwrap();
    assert_eq!(read.msg_type(), v6::MessageType::Request);
    assert_eq!(read.xid(), [0x12, 0x34, 0x56]);
    let get = |code| read.opts().get(code).cloned();
    let client = get(OptionCode::ClientId);
    assert_eq!(client, Some(DhcpOption::ClientId(DUID_LL.to_vec())));
    let server = get(OptionCode::ServerId);
    assert_eq!(server, Some(DhcpOption::ServerId(vec![0, 1, 2, 3])));
    let elapsed = get(OptionCode::ElapsedTime);
    assert_eq!(elapsed, Some(DhcpOption::ElapsedTime(150)));
    let Some(DhcpOption::IANA(association)) = get(OptionCode::IANA) else {
        panic!("{read:?}")
    };
    assert_eq!((association.id, association.t1, association.t2), (7, 0, 0));
    let Some(DhcpOption::IAAddr(lent)) = association.opts.get(OptionCode::IAAddr) else {
        panic!("{association:?}")
    };
    assert_eq!(lent.addr, address("2001:db8::15"));
    assert_eq!(Message::decode(&request.encode()), Some(request));
}

#[test]
fn what_another_implementation_answers_is_read() {
    let mut reply = v6::Message::new_with_id(v6::MessageType::Reply, [1, 2, 3]);
    let mut inner = v6::DhcpOptions::new();
    inner.insert(DhcpOption::IAAddr(v6::IAAddr {
        addr: address("2001:db8::15"),
        preferred_life: 3600,
        valid_life: 7200,
        opts: v6::DhcpOptions::new(),
    }));
    for option in [
        DhcpOption::ClientId(DUID_LL.to_vec()),
        DhcpOption::ServerId(vec![0, 1, 2, 3]),
        DhcpOption::IANA(v6::IANA {
            id: 7,
            t1: 1800,
            t2: 2880,
            opts: inner,
        }),
        DhcpOption::Preference(9),
        DhcpOption::RapidCommit,
        DhcpOption::StatusCode(v6::StatusCode {
            status: v6::Status::NotOnLink,
            msg: "go away".into(),
        }),
        DhcpOption::DomainNameServers(vec![address("2001:db8::53")]),
    ] {
        reply.opts_mut().insert(option);
    }
    let mut bytes = reply.to_vec().unwrap();
    bytes.extend([0, 24, 0, 13]);
    bytes.extend(b"\x07example\x03org\0");
    bytes.extend([0, 82, 0, 4, 0, 0, 2, 88]);
    let read = Message::decode(&bytes).unwrap();
    let expected = Message {
        kind: Kind::Reply,
        transaction: 0x01_02_03,
        client: DUID_LL.to_vec(),
        server: vec![0, 1, 2, 3],
        associations: vec![Association {
            id: 7,
            renew: 1800,
            rebind: 2880,
            addresses: vec![Lent {
                address: address("2001:db8::15"),
                preferred: 3600,
                valid: 7200,
                status: 0,
            }],
            status: 0,
        }],
        preference: 9,
        status: status::NOT_ON_LINK,
        rapid: true,
        dns: vec![address("2001:db8::53")],
        search: vec!["example.org".into()],
        longest: Some(600),
        ..Message::default()
    };
    assert_eq!(read, expected);
    assert_eq!(Message::decode(&expected.encode()), Some(expected));
}

#[test]
fn an_option_that_makes_no_sense_is_left_out() {
    let head = [7, 0, 0, 1];
    type Case = (&'static str, &'static [u8], fn(&Message) -> bool);
    let cases: [Case; 6] = [
        ("a DUID of nothing", &[0, 1, 0, 0], |m| m.client.is_empty()),
        ("half an association", &[0, 3, 0, 4, 0, 0, 0, 7], |m| {
            m.associations.is_empty()
        }),
        ("a status without a number", &[0, 13, 0, 1, 0], |m| {
            m.status == u16::MAX
        }),
        (
            "a name that never ends",
            &[0, 24, 0, 3, 9, b'a', b'b'],
            |m| m.search.is_empty(),
        ),
        ("a pointer for a name", &[0, 24, 0, 2, 0xc0, 0], |m| {
            m.search.is_empty()
        }),
        (
            "a length beyond the end",
            &[0, 14, 0, 9, 0, 14, 0, 0],
            |m| !m.rapid,
        ),
    ];
    for (rule, option, holds) in cases {
        let bytes = [&head[..], option].concat();
        let message = Message::decode(&bytes).unwrap();
        assert!(holds(&message), "{rule}: {message:?}");
    }
    for bytes in [&[][..], &[7, 0, 0], &[8, 0, 0, 1], &[12, 0, 0, 1]] {
        assert_eq!(Message::decode(bytes), None, "{bytes:?}");
    }
}

proptest! {
    /// Whatever comes: no panic, and what was read is written and read the same.
    #[test]
    fn any_bytes_are_read(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        options in prop::collection::vec(
            (
                prop::sample::select(vec![1u16, 2, 3, 5, 6, 7, 8, 13, 14, 23, 24, 82, 99]),
                prop::collection::vec(any::<u8>(), 0..60),
            ),
            0..12,
        ),
    ) {
        Message::decode(&noise);
        let mut bytes = vec![7, 1, 2, 3];
        for (code, value) in options {
            option(&mut bytes, code, &value);
        }
        let read = Message::decode(&bytes).unwrap();
        let names_are_plain = read.search.iter().all(|name| {
            name.len() < 64 && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric())
        });
        if names_are_plain {
            prop_assert_eq!(Message::decode(&read.encode()), Some(read));
        }
    }
}
