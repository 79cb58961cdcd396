//! A lease of DHCPv6, and a router: a small server of both is at the far end of the cable.
//! The near end forwards packets, as a Kubernetes host does.

use super::{
    super::{
        link::tests::{named, network},
        sysctl::hear_routers,
    },
    FAR, Machined, NEAR, apart, number,
};
use crate::{
    dhcp::Status,
    dhcp6::{
        Bound,
        tests::{Association, Kind, Lent, Message},
    },
    netlink::{self, Netlink, Unique},
};
use keelson_config::{Cidr, Machine};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto,
    sockopt::{set_ipv6_add_membership, set_ipv6_multicast_hops},
};
use std::{
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};
use tokio::{runtime::Builder, time::timeout};

const LENT: &str = "2001:db8::15";
/// The server's own, which it lends all the same.
const TAKEN: &str = "2001:db8::99";

/// What the server lends now, and what it has heard.
struct Rules6 {
    lends: &'static str,
    heard: Vec<Kind>,
}

/// Answers until the test lets go of the rules.
fn serve6(cable: &Receiver<()>, rules: &Mutex<Rules6>) {
    cable.recv().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let far = runtime.block_on(async {
        let netlink = Netlink::connect().unwrap();
        let far = number(&netlink, FAR).await;
        netlink.set_up(far).await.unwrap();
        let own = netlink::Address {
            link: far,
            cidr: Cidr {
                addr: TAKEN.parse().unwrap(),
                prefix: 64,
            },
            lifetime: None,
            preferred: None,
            unique: Unique::Yes,
            mark: None,
        };
        netlink.add_address(&own).await.unwrap();
        far
    });
    let socket = UdpSocket::bind("[::]:547").unwrap();
    let all = "ff02::1:2".parse().unwrap();
    socket.join_multicast_v6(&all, far).unwrap();
    let patience = Some(Duration::from_millis(50));
    socket.set_read_timeout(patience).unwrap();
    let router = router(far);
    let mut buffer = [0; 1500];
    while cable.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        while let Ok((length, _)) = rustix::net::recv(&router, &mut buffer, RecvFlags::DONTWAIT) {
            if length > 0 && buffer[0] == 133 {
                advertise(&router, far);
            }
        }
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => panic!("{error}"),
        };
        let asked = Message::decode(&buffer[..length]).unwrap();
        let reply = answer6(&asked, &mut rules.lock().unwrap());
        // Not before its own address is known to be nobody else's.
        drop(socket.send_to(&reply.encode(), from));
    }
}

fn answer6(asked: &Message, rules: &mut Rules6) -> Message {
    rules.heard.push(asked.kind);
    if asked.kind == Kind::Decline {
        rules.lends = LENT;
    }
    let lent = Lent {
        address: rules.lends.parse().unwrap(),
        preferred: 3600,
        valid: 7200,
        status: 0,
    };
    Message {
        kind: match asked.kind {
            Kind::Solicit => Kind::Advertise,
            _ => Kind::Reply,
        },
        transaction: asked.transaction,
        client: asked.client.clone(),
        server: vec![0, 3, 0, 1, 2],
        associations: vec![Association {
            id: asked.associations[0].id,
            addresses: vec![lent],
            ..Association::default()
        }],
        preference: 255,
        dns: vec!["2001:db8::53".parse().unwrap()],
        search: vec!["example.org".into()],
        ..Message::default()
    }
}

/// A socket that hears what is asked of routers.
fn router(far: u32) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::INET6, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, flags, Some(ipproto::ICMPV6)).unwrap();
    let routers = "ff02::2".parse().unwrap();
    set_ipv6_add_membership(&socket, &routers, far).unwrap();
    set_ipv6_multicast_hops(&socket, 255).unwrap();
    socket
}

/// A router for half an hour, with 2001:db8::/64 on the link, for no addresses of one's own
/// making (RFC 4861, sections 4.2 and 4.6.2).
fn advertise(router: &OwnedFd, far: u32) {
    let mut message = vec![134, 0, 0, 0, 64, 0x80, 0x07, 0x08];
    message.extend([0; 8]);
    message.extend([
        3, 4, 64, 0x80, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0,
    ]);
    let network: std::net::Ipv6Addr = "2001:db8::".parse().unwrap();
    message.extend(network.octets());
    let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, far);
    // Not before its own address is known to be nobody else's.
    let sent = rustix::net::sendto(router, &message, SendFlags::DONTWAIT, &everybody);
    sent.unwrap_or_default();
}

impl Machined {
    /// Passes, until the client of DHCPv6 is as wished and nothing is missing.
    async fn settle6(&mut self, wish: impl Fn(Option<&Status<Bound>>) -> bool) {
        let near = number(&Netlink::connect().unwrap(), NEAR).await;
        let settled = timeout(Duration::from_secs(60), async {
            loop {
                hear_routers(&self.want).await;
                let done = self.pass().await.is_empty();
                if done && wish(self.leases.all6().get(&near)) {
                    return;
                }
                drop(timeout(Duration::from_millis(300), self.wake.notified()).await);
            }
        });
        settled
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.leases.all6()));
    }
}

/// What the near end has beside its link-local address.
async fn near_addresses6() -> Vec<String> {
    let netlink = Netlink::connect().unwrap();
    let near = number(&netlink, NEAR).await;
    let all = netlink.addresses().await.unwrap();
    let mut all: Vec<_> = all
        .iter()
        .filter(|address| address.link == near)
        .map(|a| format!("{} {:?} {}", a.cidr, a.mark, a.lifetime.is_some()))
        .filter(|text| !text.starts_with("fe80:"))
        .collect();
    all.sort();
    all
}

/// Shows: network.links.dhcp.v6
#[test]
fn a_cable_to_a_dhcpv6_server_and_a_router() {
    apart(run6());
}

async fn run6() {
    let forwarding = "/proc/sys/net/ipv6/conf/all/forwarding";
    if let Err(error) = fs::write(forwarding, "1") {
        eprintln!("skipped: {forwarding} cannot be written here: {error}");
        return;
    }
    let rules = Arc::new(Mutex::new(Rules6 {
        lends: LENT,
        heard: Vec::new(),
    }));
    let (cable, inbox) = channel();
    let (place, namespace) = channel();
    let shared = rules.clone();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        place.send(own).unwrap();
        serve6(&inbox, &shared);
    });
    let namespace: File = namespace.recv().unwrap();
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let pair = LinkVeth::new(NEAR, FAR).build();
    handle.link().add(pair).execute().await.unwrap();
    let away = LinkUnspec::new_with_name(FAR)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    handle.link().change(away).execute().await.unwrap();
    cable.send(()).unwrap();
    let heard = || {
        let mut heard = std::mem::take(&mut rules.lock().unwrap().heard);
        heard.dedup();
        heard
    };
    let is_bound = |address: &'static str| {
        move |status: Option<&Status<Bound>>| {
            let bound = status.and_then(Status::bound);
            bound.is_some_and(|bound| bound.lease.address.to_string() == address)
        }
    };

    let mut want = Machine::maintenance();
    want.network = network(&[named(NEAR)]);
    let link = &mut want.network.links[0];
    (link.dhcp_v4, link.dhcp_v6) = (false, true);
    let memory = tempfile::tempdir().unwrap();
    let mut machined = Machined::start(want.clone(), memory.path());
    machined.settle6(is_bound(LENT)).await;
    assert_eq!(heard(), [Kind::Solicit, Kind::Request]);
    let leased = "2001:db8::15/128 Some(Lease) true";
    assert_eq!(near_addresses6().await, [leased]);

    // The default route is a router's word, heard by a machine that forwards; it stays.
    let netlink = Netlink::connect().unwrap();
    let near = number(&netlink, NEAR).await;
    let by_router = || async {
        let routes = netlink.routes().await.unwrap();
        let mut routes = routes
            .iter()
            .filter(|it| it.link == near && it.to.prefix == 0);
        routes.any(|it| it.mark.is_none() && matches!(it.via, Some(IpAddr::V6(_))))
    };
    timeout(Duration::from_secs(20), async {
        while !by_router().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("no default route");
    assert_eq!(machined.pass().await, Vec::<String>::new());
    assert!(by_router().await);
    let shown = machined.store.list("address");
    let shown: Vec<_> = shown.iter().map(|it| it.name.as_str()).collect();
    for name in ["wan0/2001:db8::15/128", "wan0/dhcpv6"] {
        assert!(shown.contains(&name), "{shown:?}");
    }

    // machined begins anew: nothing flickers. It is lent what another machine has: it says
    // so, and is lent something else.
    drop(machined);
    rules.lock().unwrap().lends = TAKEN;
    let mut machined = Machined::start(want, memory.path());
    let first = machined.pass().await;
    assert_eq!(first, ["ask for an IPv6 address on wan0"]);
    assert_eq!(near_addresses6().await, [leased]);
    machined.settle6(is_bound(LENT)).await;
    let (ask, decline) = ([Kind::Solicit, Kind::Request], [Kind::Decline]);
    assert_eq!(heard(), [&ask[..], &decline, &ask].concat());
    assert_eq!(near_addresses6().await, [leased]);

    // It is to have no address from DHCPv6 any more.
    machined.want.network.links[0].dhcp_v6 = false;
    machined.settle6(|status| status.is_none()).await;
    assert_eq!(near_addresses6().await, Vec::<String>::new());
}
