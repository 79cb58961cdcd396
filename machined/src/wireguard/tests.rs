//! What changes between links and configs, and the bytes that say so.

use super::*;
use crate::{netlink::Netlink, nouns::kernel_tests::apart};
use genetlink::Part;
use keelson_config::{KEY, Made};
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A key with one byte that counts.
pub(crate) fn key(byte: u8) -> PublicKey {
    PublicKey([byte; KEY])
}

/// A peer with one address behind it.
pub(crate) fn peer(byte: u8, allowed: &[&str]) -> Peer {
    Peer {
        public_key: key(byte),
        preshared_key: None,
        endpoint: None,
        allowed_ips: allowed.iter().map(|text| text.parse().unwrap()).collect(),
        persistent_keepalive: 0,
    }
}

/// A link with these peers.
pub(crate) fn wireguard(peers: &[Peer]) -> Wireguard {
    Wireguard {
        private_key: SecretKey::new([0x48; KEY]),
        listen_port: Some(51820),
        fw_mark: 0,
        peers: peers.to_vec(),
    }
}

impl Device {
    /// Takes a change as the kernel does.
    pub(crate) fn take(&mut self, change: &Change) {
        if let Some(key) = &change.private_key {
            self.private_key = Some(key.clamped());
            self.public_key = Some(PublicKey([0xee; KEY]));
        }
        self.listen_port = change.listen_port.unwrap_or(self.listen_port);
        self.fw_mark = change.fw_mark.unwrap_or(self.fw_mark);
        for PeerChange { key, what } in &change.peers {
            match what.clone() {
                What::Remove => {
                    assert!(self.peers.remove(key).is_some(), "{key} is not there");
                }
                What::Set {
                    new,
                    preshared_key,
                    endpoint,
                    allowed_ips,
                    persistent_keepalive,
                } => {
                    assert_eq!(new, !self.peers.contains_key(key));
                    if let Some(networks) = &allowed_ips {
                        // A network is behind one peer.
                        for other in self.peers.values_mut() {
                            other.allowed_ips.retain(|it| !networks.contains(it));
                        }
                    }
                    let seen = self.peers.entry(*key).or_default();
                    seen.preshared_key = preshared_key.unwrap_or(seen.preshared_key.take());
                    seen.endpoint = endpoint.or(seen.endpoint);
                    seen.told = endpoint.or(seen.told);
                    seen.allowed_ips = allowed_ips.unwrap_or(seen.allowed_ips.clone());
                    seen.persistent_keepalive =
                        persistent_keepalive.unwrap_or(seen.persistent_keepalive);
                }
            }
        }
    }
}

/// Shows: network.links.wireguard
#[test]
fn from_one_config_to_the_next() {
    let endpoint = |text: &str| Some(text.parse().unwrap());
    let far = Peer {
        preshared_key: Some(SecretKey::new([0x50; KEY])),
        endpoint: endpoint("192.0.2.7:51820"),
        persistent_keepalive: 25,
        ..peer(0xa1, &["10.8.0.2/32", "10.20.0.0/16"])
    };
    let with = |change: &dyn Fn(&mut Wireguard)| {
        let mut all = wireguard(&[far.clone(), peer(0xb2, &["10.8.0.3/32"])]);
        change(&mut all);
        all
    };
    type Case = (&'static str, Wireguard, &'static str);
    let cases: [Case; 13] = [
        (
            "all of it",
            with(&|_| ()),
            "its key, port 51820, new peer oaGhoaGh…, new peer srKysrKy…",
        ),
        ("the same again", with(&|_| ()), ""),
        (
            "another key",
            with(&|it| it.private_key = SecretKey::new([9; KEY])),
            "its key",
        ),
        (
            "a peer goes",
            with(&|it| {
                it.private_key = SecretKey::new([9; KEY]);
                it.peers.pop();
            }),
            "no more peer srKysrKy…",
        ),
        (
            "and comes back with what was another's",
            with(&|it| {
                it.private_key = SecretKey::new([9; KEY]);
                it.peers[0].allowed_ips.pop();
                it.peers[1].allowed_ips = vec!["10.20.0.0/16".parse().unwrap()];
            }),
            "peer oaGhoaGh…, new peer srKysrKy…",
        ),
        (
            "all back",
            with(&|_| ()),
            "its key, peer oaGhoaGh…, peer srKysrKy…",
        ),
        (
            "another port",
            with(&|it| it.listen_port = Some(51821)),
            "port 51821",
        ),
        ("no port of its own", with(&|it| it.listen_port = None), ""),
        (
            "a mark",
            with(&|it| (it.listen_port, it.fw_mark) = (None, 7)),
            "mark 7",
        ),
        ("no mark", with(&|it| it.listen_port = None), "mark 0"),
        (
            "less often, and without the other secret",
            with(&|it| {
                it.listen_port = None;
                it.peers[0].persistent_keepalive = 0;
                it.peers[0].preshared_key = None;
            }),
            "peer oaGhoaGh…",
        ),
        (
            "elsewhere",
            with(&|it| {
                it.listen_port = None;
                it.peers[0].endpoint = endpoint("[2001:db8::7]:1");
                it.peers[0].persistent_keepalive = 0;
                it.peers[0].preshared_key = None;
            }),
            "peer oaGhoaGh…",
        ),
        (
            "nobody",
            with(&|it| it.peers.clear()),
            "port 51820, no more peer oaGhoaGh…, no more peer srKysrKy…",
        ),
    ];
    let mut device = Device::default();
    for (rule, want, words) in cases {
        let change = device.lacks(&want);
        let got = change.as_ref().map(ToString::to_string);
        assert_eq!(got.unwrap_or_default(), words, "{rule}");
        if let Some(change) = change {
            device.take(&change);
        }
        assert_eq!(device.lacks(&want), None, "{rule}: again");
    }
}

/// Shows: network.links.wireguard.peers.endpoint
#[test]
fn a_peer_that_moves_is_followed_until_it_falls_silent() {
    let (here, there) = ("192.0.2.7:51820", "198.51.100.9:4242");
    let want = Peer {
        endpoint: Some(here.parse().unwrap()),
        ..peer(0xa1, &["10.8.0.2/32"])
    };
    let now = 1_000_000;
    let cases: [(&str, Option<u64>, &str, bool); 5] = [
        ("heard a moment ago", Some(now - 10), here, false),
        ("its session may still hold", Some(now - 180), here, false),
        ("it is over", Some(now - 181), here, true),
        ("there never was one", None, here, true),
        ("the config said elsewhere", Some(now - 10), there, true),
    ];
    for (rule, last_handshake, told, again) in cases {
        let seen = Seen {
            endpoint: Some(there.parse().unwrap()),
            told: Some(told.parse().unwrap()),
            allowed_ips: want.allowed_ips.iter().copied().collect(),
            last_handshake,
            ..Seen::default()
        };
        assert_eq!(seen.lacks(&want, now).is_some(), again, "{rule}");
    }
}

#[test]
fn a_peer_with_the_links_own_key_is_none() {
    let mut device = Device::default();
    let want = wireguard(&[peer(0xa1, &["10.8.0.2/32"])]);
    device.take(&device.lacks(&wireguard(&[])).unwrap());
    device.public_key = Some(key(0xa1));
    assert_eq!(device.lacks(&want), None);
}

#[test]
fn no_secret_is_in_words() {
    let change = Device::default().lacks(&wireguard(&[Peer {
        preshared_key: Some(SecretKey::new([0x50; KEY])),
        ..peer(0xa1, &["10.8.0.2/32"])
    }]));
    let shown = format!("{change:?}");
    assert!(
        shown.contains("***") && !shown.contains("72, 72"),
        "{shown}"
    );
    assert!(!shown.contains("80, 80"), "{shown}");
}

/// The message that `wg set wg0 peer … allowed-ips 10.8.0.2/32` sends, byte by byte.
#[test]
fn a_message_is_as_the_kernel_documents_it() {
    let change = Change {
        peers: vec![PeerChange {
            key: key(0xa1),
            what: Seen::default()
                .lacks(&peer(0xa1, &["10.8.0.2/32"]), 0)
                .unwrap(),
        }],
        ..Change::default()
    };
    let got = message::set(7, &change);
    let mut want: Vec<u8> = vec![8, 0, 1, 0, 7, 0, 0, 0];
    want.extend([84, 0, 8, 0x80]);
    want.extend([80, 0, 0, 0x80]);
    want.extend([36, 0, 1, 0]);
    want.extend([0xa1; KEY]);
    // Update alone, and all of its networks.
    want.extend([8, 0, 3, 0, 6, 0, 0, 0]);
    want.extend([32, 0, 9, 0x80]);
    want.extend([28, 0, 0, 0x80]);
    want.extend([6, 0, 1, 0, 2, 0, 0, 0]);
    want.extend([8, 0, 2, 0, 10, 8, 0, 2]);
    want.extend([5, 0, 3, 0, 32, 0, 0, 0]);
    assert_eq!(got.len(), 1);
    assert_eq!(*got[0], want);
}

/// Two links of one machine hear each other, with the keys of RFC 7748, section 6.1. Only a
/// kernel that has WireGuard can show it.
#[test]
fn two_links_hear_each_other() {
    apart(hear_each_other());
}

async fn hear_each_other() {
    let keys = [
        (
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ),
        (
            "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=",
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        ),
    ];
    let netlink = Netlink::connect().unwrap();
    let loopback = netlink.links().await.unwrap()[0].index;
    netlink.set_up(loopback).await.unwrap();
    let mut links = Vec::new();
    for (index, (private, _)) in keys.iter().enumerate() {
        let other: Peer = Peer {
            public_key: keys[1 - index].1.parse().unwrap(),
            preshared_key: Some(SecretKey::new([0x50; KEY])),
            endpoint: Some(format!("127.0.0.1:5182{}", 1 - index).parse().unwrap()),
            persistent_keepalive: 1,
            ..peer(0, &["10.18.0.0/24", "fd18::/64"])
        };
        let want = Wireguard {
            private_key: private.parse().unwrap(),
            listen_port: Some(51820 + index as u16),
            ..wireguard(&[other])
        };
        let name = format!("wg{index}");
        let made = Made::Wireguard(want.clone());
        if let Err(error) = netlink.make(&name, &made, None).await {
            eprintln!("skipped: no WireGuard: {error:#}");
            return;
        }
        let all = netlink.links().await.unwrap();
        let link = all.iter().find(|link| link.name == name).unwrap().index;
        let change = read(link).await.unwrap().unwrap().lacks(&want).unwrap();
        set(link, &change).await.unwrap();
        links.push((link, want));
    }
    for (link, want) in &links {
        let device = read(*link).await.unwrap().unwrap();
        assert_eq!(device.lacks(want), None, "{device:?}");
    }
    for (index, (link, want)) in links.iter().enumerate() {
        let heard = async {
            loop {
                let device = read(*link).await.unwrap().unwrap();
                assert_eq!(device.public_key, keys[index].1.parse().ok());
                let peer = device.peers.values().next().unwrap();
                if peer.last_handshake.is_some() {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let heard = timeout(Duration::from_secs(60), heard).await;
        assert!(heard.is_ok(), "{:?} is not heard", want.peers);
    }
    // What is taken away is gone, and the other stays as it is.
    let (link, want) = &links[0];
    let mut less = want.clone();
    less.peers[0].preshared_key = None;
    less.peers[0].allowed_ips.pop();
    for want in [less, wireguard(&[])] {
        let change = read(*link).await.unwrap().unwrap().lacks(&want).unwrap();
        set(*link, &change).await.unwrap();
        let device = read(*link).await.unwrap().unwrap();
        assert_eq!(device.lacks(&want), None, "{device:?}");
    }
    netlink.remove_link(*link).await.unwrap();
    assert_eq!(read(*link).await.unwrap(), None);
}

fn networks() -> impl Strategy<Value = Vec<Cidr>> {
    let v4 = any::<[u8; 4]>().prop_map(|addr| Cidr {
        addr: addr.into(),
        prefix: 32,
    });
    let v6 = any::<[u8; 16]>().prop_map(|addr| Cidr {
        addr: addr.into(),
        prefix: 128,
    });
    prop::collection::vec(prop_oneof![v4, v6], 1..1200)
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let endpoint = prop_oneof![
        (any::<[u8; 4]>(), 1u16..).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        (any::<[u8; 16]>(), 1u16..).prop_map(|(ip, port)| SocketAddr::from((ip, port))),
    ];
    let secret = any::<[u8; KEY]>().prop_filter("none", |key| *key != [0; KEY]);
    (
        1u8..6,
        prop::option::of(secret),
        prop::option::of(endpoint),
        networks(),
        any::<u16>(),
    )
        .prop_map(|(byte, secret, endpoint, allowed_ips, every)| Peer {
            public_key: key(byte),
            preshared_key: secret.map(SecretKey::new),
            endpoint,
            allowed_ips,
            persistent_keepalive: every,
        })
}

fn any_wireguard() -> impl Strategy<Value = Wireguard> {
    let peers = prop::collection::vec(any_peer(), 0..4);
    let numbers = (any::<[u8; KEY]>(), 1u16.., any::<u32>());
    (numbers, peers).prop_map(|((private, port, mark), mut peers)| {
        // No two have the same key, or the same network.
        let (mut keys, mut known) = (BTreeSet::new(), BTreeSet::new());
        peers.retain(|peer| keys.insert(peer.public_key));
        for peer in &mut peers {
            peer.allowed_ips.retain(|it| known.insert(*it));
        }
        Wireguard {
            private_key: SecretKey::new(private),
            listen_port: Some(port),
            fw_mark: mark,
            peers,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A change says all that is missing: behind it there is nothing left to do.
    #[test]
    fn a_plan_ends(one in any_wireguard(), two in any_wireguard()) {
        let mut device = Device::default();
        for want in [one, two] {
            if let Some(change) = device.lacks(&want) {
                device.take(&change);
            }
            prop_assert_eq!(device.lacks(&want), None);
        }
    }

    /// What is told to the kernel is what is read from it, in however many messages.
    #[test]
    fn bytes_say_what_they_should(want in any_wireguard()) {
        let change = Device::default().lacks(&want).unwrap();
        let parts = message::set(7, &change);
        for part in &parts {
            prop_assert!(part.len() < usize::from(u16::MAX));
        }
        let mut got = message::device(&parts, 0);
        for (key, endpoint) in change.endpoints() {
            got.peers.get_mut(&key).unwrap().told = Some(endpoint);
        }
        prop_assert_eq!(got.lacks(&want), None);
    }

    #[test]
    fn no_answer_stops_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        message::device(&[Part::new(bytes)], 0);
    }
}
