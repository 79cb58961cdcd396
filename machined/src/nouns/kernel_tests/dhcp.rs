//! A lease: a small DHCP server is at the far end of the cable, which is pulled and put in
//! again.

use super::{
    super::link::{
        self,
        tests::{named, network},
    },
    FAR, Machined, NEAR, apart, number,
};
use crate::{
    dhcp::Status,
    engine::Wake,
    netlink::{self, Mark, Netlink},
};
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{self, DhcpOption, MessageType},
};
use keelson_config::{self as config, Cidr, Machine, Network};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth};
use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};
use tokio::{runtime::Builder, time::timeout};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// What the server does; the test changes it as it goes.
struct Rules {
    lends: Ipv4Addr,
    refuses: bool,
    heard: Vec<MessageType>,
}

/// Told to the server's thread.
enum Order {
    /// The cable has arrived.
    Begin,
    /// Pull the cable, and put it in again.
    Flap,
}

struct Server {
    rules: Arc<Mutex<Rules>>,
    orders: Sender<Order>,
    done: Receiver<()>,
    namespace: File,
}

impl Server {
    /// Starts the server's thread, in a namespace of its own.
    fn start() -> Server {
        let rules = Rules {
            lends: Ipv4Addr::new(10, 0, 2, 15),
            refuses: false,
            heard: Vec::new(),
        };
        let rules = Arc::new(Mutex::new(rules));
        let (orders, inbox) = channel();
        let (finished, done) = channel();
        let (place, namespace) = channel();
        let shared = rules.clone();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            place
                .send(File::open("/proc/thread-self/ns/net").unwrap())
                .unwrap();
            serve(&inbox, &finished, &shared);
        });
        let namespace = namespace.recv().unwrap();
        Server {
            rules,
            orders,
            done,
            namespace,
        }
    }

    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
        self.done.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.rules.lock().unwrap());
    }

    /// What was asked since the last look; what was asked again in a row counts once.
    fn heard(&self) -> Vec<MessageType> {
        let mut heard = std::mem::take(&mut self.rules.lock().unwrap().heard);
        heard.dedup();
        heard
    }
}

/// Answers until the test lets go of its end.
fn serve(orders: &Receiver<Order>, done: &Sender<()>, rules: &Mutex<Rules>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let Ok(Order::Begin) = orders.recv() else {
        return;
    };
    runtime.block_on(async {
        let netlink = Netlink::connect().unwrap();
        let far = number(&netlink, FAR).await;
        netlink.set_up(far).await.unwrap();
        let cidr = Cidr {
            addr: SERVER.into(),
            prefix: 24,
        };
        let address = netlink::Address {
            link: far,
            cidr,
            lifetime: None,
            preferred: None,
            unique: netlink::Unique::Yes,
            mark: None,
        };
        netlink.add_address(&address).await.unwrap();
    });
    let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
    nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::BindToDevice,
        &FAR.into(),
    )
    .unwrap();
    socket.set_broadcast(true).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    done.send(()).unwrap();
    let mut buffer = [0; 1500];
    loop {
        match orders.try_recv() {
            Ok(Order::Begin) => {}
            Ok(Order::Flap) => {
                runtime.block_on(async {
                    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                    tokio::spawn(connection);
                    for message in [
                        LinkUnspec::new_with_name(FAR).down().build(),
                        LinkUnspec::new_with_name(FAR).up().build(),
                    ] {
                        handle.link().change(message).execute().await.unwrap();
                        tokio::time::sleep(Duration::from_millis(700)).await;
                    }
                });
                done.send(()).unwrap();
            }
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
        }
        let length = match socket.recv_from(&mut buffer) {
            Ok((length, _)) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => panic!("{error}"),
        };
        let request = v4::Message::from_bytes(&buffer[..length]).unwrap();
        let reply = answer(&request, &mut rules.lock().unwrap());
        let to = match request.ciaddr() {
            Ipv4Addr::UNSPECIFIED => Ipv4Addr::BROADCAST,
            client => client,
        };
        // While the cable is out, nothing can be sent.
        drop(socket.send_to(&reply, (to, 68)));
    }
}

fn answer(request: &v4::Message, rules: &mut Rules) -> Vec<u8> {
    let kind = request.opts().msg_type().unwrap();
    rules.heard.push(kind);
    let kind = match kind {
        MessageType::Discover => MessageType::Offer,
        _ if rules.refuses => {
            rules.refuses = false;
            MessageType::Nak
        }
        _ => MessageType::Ack,
    };
    let mut message = v4::Message::default();
    message
        .set_opcode(v4::Opcode::BootReply)
        .set_xid(request.xid())
        .set_chaddr(request.chaddr());
    if kind != MessageType::Nak {
        message.set_yiaddr(rules.lends);
    }
    for option in [
        DhcpOption::MessageType(kind),
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![SERVER]),
        DhcpOption::DomainNameServer(vec![SERVER]),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::AddressLeaseTime(3600),
    ] {
        message.opts_mut().insert(option);
    }
    message.to_vec().unwrap()
}

impl Machined {
    /// Passes, until the client of the near end is as wished and nothing is missing.
    async fn settle(&mut self, wish: impl Fn(Option<&Status>) -> bool) {
        let near = number(&Netlink::connect().unwrap(), NEAR).await;
        let settled = timeout(Duration::from_secs(30), async {
            loop {
                let done = self.pass().await.is_empty();
                if done && wish(self.leases.all().get(&near)) {
                    return;
                }
                drop(timeout(Duration::from_millis(300), self.wake.notified()).await);
            }
        });
        settled
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.leases.all()));
    }
}

/// The addresses of the near end, as `address mark`, and whether they end.
async fn near_addresses() -> Vec<String> {
    let netlink = Netlink::connect().unwrap();
    let near = number(&netlink, NEAR).await;
    let all = netlink.addresses().await.unwrap();
    let mut all: Vec<_> = all
        .iter()
        .filter(|address| address.link == near && address.cidr.addr.is_ipv4())
        .map(|a| {
            format!(
                "{} {:?} {}",
                a.cidr,
                a.mark,
                if a.lifetime.is_some() {
                    "ends"
                } else {
                    "stays"
                }
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_cable_to_a_dhcp_server() {
    apart(run());
}

async fn run() {
    let server = Server::start();
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
        .link()
        .add(LinkVeth::new(NEAR, FAR).build())
        .execute()
        .await
        .unwrap();
    let away = LinkUnspec::new_with_name(FAR)
        .setns_by_fd(server.namespace.as_raw_fd())
        .build();
    handle.link().change(away).execute().await.unwrap();
    server.order(Order::Begin);

    let mut want = Machine::maintenance();
    want.network = network(&[named(NEAR)]);
    let to = |text: &str, prefix| Cidr {
        addr: text.parse().unwrap(),
        prefix,
    };
    want.network.links[0].addresses = vec![to("10.1.0.5", 24), to("fd00::5", 64)];
    want.network.links[0].routes = vec![config::Route {
        to: to("10.9.0.0", 16),
        via: Some(Ipv4Addr::new(10, 1, 0, 1).into()),
        metric: 1024,
        table: keelson_config::MAIN_TABLE,
    }];
    let memory = tempfile::tempdir().unwrap();

    // Everything is set, and nothing is done twice.
    let mut machined = Machined::start(want.clone(), memory.path());
    machined
        .settle(|status| status.is_some_and(|s| s.bound().is_some()))
        .await;
    assert_eq!(
        server.heard(),
        [MessageType::Discover, MessageType::Request]
    );
    let fixed = "10.1.0.5/24 Some(Config) stays";
    assert_eq!(
        near_addresses().await,
        ["10.0.2.15/24 Some(Lease) ends", fixed]
    );
    let netlink = Netlink::connect().unwrap();
    let near = number(&netlink, NEAR).await;
    let mut routes: Vec<_> = netlink.routes().await.unwrap();
    routes.retain(|route| route.mark.is_some());
    routes.sort();
    let routes: Vec<_> = routes
        .iter()
        .map(|r| format!("{} {:?} {}", r.to, r.via.unwrap(), r.metric))
        .collect();
    assert_eq!(
        routes,
        ["0.0.0.0/0 10.0.2.2 1025", "10.9.0.0/16 10.1.0.1 1024"]
    );
    let links = netlink.links().await.unwrap();
    assert_eq!(
        links.iter().find(|link| link.index == near).unwrap().mtu,
        1400
    );
    assert!(links[0].up && links[0].loopback);
    let shown: Vec<_> = machined
        .store
        .list("address")
        .into_iter()
        .map(|r| r.name)
        .collect();
    for name in ["lo/127.0.0.1/8", "wan0/10.0.2.15/24", "wan0/dhcp"] {
        assert!(shown.contains(&name.to_owned()), "{shown:?}");
    }
    assert_eq!(machined.pass().await, Vec::<String>::new());

    // Somebody else's address is seen at once, and stays.
    let monitor = Wake::default();
    tokio::spawn(netlink::monitor(monitor.clone()));
    monitor.notified().await;
    let cidr = to("192.168.77.1", 24);
    let foreign = netlink::Address {
        link: near,
        cidr,
        lifetime: None,
        preferred: None,
        unique: netlink::Unique::Yes,
        mark: None,
    };
    netlink.add_address(&foreign).await.unwrap();
    timeout(Duration::from_secs(5), monitor.notified())
        .await
        .expect("the change was not seen");
    assert_eq!(machined.pass().await, Vec::<String>::new());
    let foreign = "192.168.77.1/24 None stays";

    // machined begins anew: nothing flickers, and it asks for what it had.
    drop(machined);
    let mut machined = Machined::start(want, memory.path());
    let first = machined.pass().await;
    assert_eq!(first, ["ask for an address on wan0"]);
    machined
        .settle(|status| status.is_some_and(|s| s.bound().is_some()))
        .await;
    assert_eq!(server.heard(), [MessageType::Request]);
    assert_eq!(
        near_addresses().await,
        ["10.0.2.15/24 Some(Lease) ends", fixed, foreign]
    );

    // On its own address it reaches the server alone, as to renew.
    renew(near, &machined.want.network).await;
    assert_eq!(server.heard(), [MessageType::Request]);

    // The cable is put in elsewhere: the old address is refused, there is another.
    server.change(|rules| {
        rules.refuses = true;
        rules.lends = Ipv4Addr::new(10, 0, 2, 99);
    });
    let flap = thread::spawn(move || {
        server.order(Order::Flap);
        server
    });
    let other = IpAddr::from(Ipv4Addr::new(10, 0, 2, 99));
    machined
        .settle(|status| {
            let bound = status.and_then(Status::bound);
            bound.is_some_and(|bound| IpAddr::from(bound.lease.address) == other)
        })
        .await;
    let server = flap.join().unwrap();
    let heard = server.heard();
    assert_eq!(
        heard,
        [
            MessageType::Request,
            MessageType::Discover,
            MessageType::Request
        ]
    );
    assert_eq!(
        near_addresses().await,
        ["10.0.2.99/24 Some(Lease) ends", fixed, foreign]
    );

    // It is to have no address from DHCP any more: what came from there goes.
    machined.want.network.links[0].dhcp_v4 = false;
    machined.settle(|status| status.is_none()).await;
    assert_eq!(near_addresses().await, [fixed, foreign]);
    let routes = netlink.routes().await.unwrap();
    assert!(!routes.iter().any(|route| route.mark == Some(Mark::Lease)));
}

/// Asks the server alone, from the machine's address, and hears its answer.
async fn renew(near: u32, network: &Network) {
    let links = link::look(&Netlink::connect().unwrap()).await.unwrap();
    let mac = link::select(&links, network)[0].seen.link.mac.unwrap();
    let from = Ipv4Addr::new(10, 0, 2, 15);
    let answer = crate::dhcp::tests::ask_server(near, NEAR, mac, from, SERVER);
    let answer = timeout(Duration::from_secs(5), answer)
        .await
        .expect("no answer");
    let answer = v4::Message::from_bytes(&answer).unwrap();
    assert_eq!(answer.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(answer.yiaddr(), from);
}
