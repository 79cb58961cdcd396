//! The plan of the address that servers share.

use super::*;
use crate::{
    engine::Wake,
    noun::Reconcile as _,
    nouns::{
        kernel_tests::{apart, number},
        link::tests::{machine, named, network},
    },
    resource::Store,
};
use keelson_config::VirtualAddress;
use rtnetlink::LinkVeth;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};
use std::{net::UdpSocket, time::Instant};

fn on(link: u32, text: &str, mark: Option<Mark>) -> netlink::Address {
    let (addr, prefix) = text.split_once('/').unwrap();
    netlink::Address {
        link,
        cidr: Cidr {
            addr: addr.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        },
        lifetime: None,
        preferred: None,
        unique: netlink::Unique::Yes,
        mark,
    }
}

fn want(address: &str, link: Option<&str>) -> Network {
    let mut network = network(&[named("eth0"), named("eth1")]);
    network.virtual_address = Some(VirtualAddress {
        address: address.parse().unwrap(),
        link: link.map(str::to_owned),
    });
    network
}

/// Shows: network.virtualAddress.address, network.virtualAddress.link
#[test]
fn each_case_has_its_steps() {
    const SHARED: Option<Mark> = Some(Mark::Shared);
    let other = || Holder::Other("server-2".into());
    let down = || Holder::Nobody("this machine goes down");
    let here = on(2, "10.0.0.100/32", SHARED);
    let wrong = on(3, "10.0.0.100/32", SHARED);
    let by_network = want("10.0.0.100", None);
    let on_eth1 = want("10.0.0.100", Some("eth1"));
    let v6 = want("fd00::100", None);
    let none = network(&[named("eth0"), named("eth1")]);
    let cases: Vec<(&str, &Network, Holder, Vec<netlink::Address>, &[&str])> = vec![
        (
            "it is ours",
            &by_network,
            Holder::Here,
            vec![],
            &["answer to 10.0.0.100 on eth0"],
        ),
        (
            "and is there",
            &by_network,
            Holder::Here,
            vec![here.clone()],
            &[],
        ),
        ("another's", &by_network, other(), vec![], &[]),
        (
            "another took it over",
            &by_network,
            other(),
            vec![here.clone()],
            &["take 10.0.0.100 from eth0"],
        ),
        (
            "given up",
            &by_network,
            down(),
            vec![here.clone()],
            &["take 10.0.0.100 from eth0"],
        ),
        (
            "an earlier machined put it there",
            &by_network,
            Holder::Unknown,
            vec![here.clone()],
            &[],
        ),
        (
            "nobody has asked",
            &by_network,
            Holder::Unknown,
            vec![],
            &[],
        ),
        (
            "on the wrong link",
            &on_eth1,
            Holder::Here,
            vec![here.clone()],
            &["take 10.0.0.100 from eth0", "answer to 10.0.0.100 on eth1"],
        ),
        (
            "what is on the wrong link is no reason to be there",
            &by_network,
            Holder::Here,
            vec![wrong],
            &["take 10.0.0.100 from eth1", "answer to 10.0.0.100 on eth0"],
        ),
        (
            "another address",
            &by_network,
            Holder::Here,
            vec![on(2, "10.0.0.101/32", SHARED)],
            &["take 10.0.0.101 from eth0", "answer to 10.0.0.100 on eth0"],
        ),
        (
            "not in the config any more",
            &none,
            Holder::Unknown,
            vec![here.clone()],
            &["take 10.0.0.100 from eth0"],
        ),
        (
            "somebody else's is left alone",
            &none,
            Holder::Unknown,
            vec![on(2, "10.0.0.100/32", None)],
            &[],
        ),
        (
            "IPv6",
            &v6,
            Holder::Here,
            vec![],
            &["answer to fd00::100 on eth1"],
        ),
    ];
    for (name, network, holder, more, wanted) in cases {
        let mut addresses = vec![on(2, "10.0.0.5/24", None), on(3, "fd00::5/64", None)];
        addresses.extend(more);
        let have = Have {
            links: machine(),
            addresses,
            holder,
        };
        let steps: Vec<String> = plan(&have, network)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(steps, wanted, "{name}");
    }
}

#[test]
fn who_has_it_is_shown() {
    let mut have = Have {
        links: machine(),
        addresses: vec![on(2, "10.0.0.5/24", None)],
        holder: Holder::Other("server-2".into()),
    };
    let network = want("10.0.0.100", None);
    let shown = publish(&have, &network).unwrap();
    assert_eq!(
        (shown.name.as_str(), shown.phase),
        ("10.0.0.100", Phase::Ready)
    );
    assert_eq!(shown.spec.get("holder"), Some(&"server-2".into()));
    assert_eq!(shown.spec.get("link"), Some(&"eth0".into()));
    have.addresses.clear();
    let shown = publish(&have, &network).unwrap();
    assert_eq!(shown.phase, Phase::Pending);
    assert_eq!(shown.message, "no link of the config is in its network");
}

/// The address that a packet to another would come from.
fn from(to: &str) -> Option<String> {
    let any = if to.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().unwrap().ip().to_string())
}

async fn patiently<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(Instant::now() < end, "it does not come"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// In a real kernel: the address is there while this machine holds it, nothing goes out
/// from it, and those at the other end of the cable are told.
#[test]
fn it_comes_and_goes_with_its_holder() {
    apart(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let cable = LinkVeth::new("eth0", "far0").build();
        handle.link().add(cable).execute().await.unwrap();
        let netlink = Netlink::connect().unwrap();
        let (near, far) = (
            number(&netlink, "eth0").await,
            number(&netlink, "far0").await,
        );
        for link in [near, far] {
            netlink.set_up(link).await.unwrap();
        }
        let own = [on(near, "10.0.0.5/24", None), on(near, "fd00::5/64", None)];
        for address in own {
            netlink.add_address(&address).await.unwrap();
        }
        // What comes in by a link, not what goes out.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (packet, datagram) = (AddressFamily::PACKET, SocketType::DGRAM);
        let heard = rustix::net::socket_with(packet, datagram, flags, Some(eth::ARP)).unwrap();

        let mut want = Machine::maintenance();
        let (store, shared) = (Store::new(), Shared::new(Wake::default()));
        let mut noun = VirtualAddresses::new(shared.clone());
        let here = async || {
            let all = netlink.addresses().await.unwrap();
            let ours = all.into_iter().filter(|it| it.mark == Some(Mark::Shared));
            ours.map(|it| it.cidr.to_string()).collect::<Vec<_>>()
        };
        for (address, shown, own, to) in [
            ("10.0.0.100", "10.0.0.100/32", "10.0.0.5", "10.0.0.9"),
            ("fd00::100", "fd00::100/128", "fd00::5", "fd00::9"),
        ] {
            patiently(|| from(to).filter(|from| from == own)).await;
            want.network = super::tests::want(address, None);
            want.network.links[0].select = named("eth0");
            shared.settle(Holder::Here);
            let pass = noun.reconcile(&want, &store).await;
            assert!(pass.failed.is_empty(), "{:?}", pass.failed);
            assert_eq!(here().await, [shown]);
            // An address of IPv6 is not used before it is known to be alone.
            patiently(|| UdpSocket::bind((address, 0)).ok()).await;
            // What begins here comes from the machine's own address.
            assert_eq!(from(to).unwrap(), own);
            shared.settle(Holder::Other("server-2".into()));
            assert!(shared.answers());
            noun.reconcile(&want, &store).await;
            assert_eq!(here().await, [] as [&str; 0]);
            assert!(!shared.answers(), "another may have it now");
        }
        let announced = [10, 0, 0, 100];
        let mut arp = [0; 28];
        patiently(|| {
            rustix::net::recv(&heard, &mut arp, RecvFlags::empty()).ok()?;
            (arp[14..18] == announced && arp[24..28] == announced).then_some(())
        })
        .await;
    });
}
